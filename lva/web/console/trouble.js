// What a plugin is to be looked at for although it is running: points that are dropped, a receiver that is unreachable,
// requests that fail.

import { counted, lasted } from "./dom.js";

/** How full a queue is when that is said. */
const FULL = 0.9;

/** The troubles of a plugin, the worst first: [{kind, text}]; `kind` is bad or warn. */
export function troubles(plugin, failing, at) {
  const found = [];
  if (plugin.dropping > 0) found.push({ kind: "bad", text: `${counted(plugin.dropping, "point")} dropped in the last minute` });
  const now = failing.filter(({ recent }) => recent > 0);
  if (now.length) {
    const failed = now.reduce((total, { recent }) => total + recent, 0);
    const where = now.length === 1 ? now[0].route : `${now.length} routes`;
    found.push({ kind: "bad", text: `${counted(failed, "request")} to ${where} failed in the last minute` });
  }
  if (plugin.probe_at !== null && plugin.probe_at !== undefined) {
    const left = plugin.probe_at - at;
    found.push({ kind: "warn", text: left > 0 ? `circuit open; next probe in ${lasted(Math.ceil(left))}` : "circuit open; probing" });
  }
  if (plugin.fill >= FULL) found.push({ kind: "warn", text: `queue ${Math.floor(plugin.fill * 100)} % full` });
  return found;
}
