// States of streams: their words and marks, and their lanes over the last minutes.

import { mark } from "./dom.js";
import { lane, spans } from "./timeline.js";

/** The console's mark for each state of a stream. */
const MARKS = { in_progress: "running", pending: "initializing", restart: "backoff", failure: "failed", paused: "loaded", stop: "stopped", done: "stopped" };
const WORDS = { in_progress: "in progress", pending: "connecting", restart: "reconnecting", failure: "failed", stop: "stopped" };

export const word = (status) => WORDS[status] ?? status;
/** The word of a stream's state: one that no agent of a fleet has taken waits. */
export const wordOf = ({ status, fleet }) => (status === "pending" && fleet && fleet.agent === null ? "waiting" : word(status));
export const markOf = (status) => MARKS[status] ?? "loaded";
export const stateMark = (status) => mark(markOf(status));

/** Whether a stream is meant not to be worked on now. */
export const isAtRest = ({ status }) => status === "stop" || status === "done" || status === "paused";

/** Whether frames come, but something is wrong: the picture is old or stays the same, or analytics are set aside. */
export const isWarned = ({ status, old, code }) => status === "in_progress" && Boolean(old || code);

/** Whether somebody should look at a stream in this state. */
export const needsSomebody = (stream) => Boolean(stream.fleet?.waiting) || stream.status === "failure" || stream.status === "restart" || isWarned(stream);

/** How much a stream needs somebody: the larger, the more. */
export const urgency = (stream) => (stream.status === "failure" ? 3 : stream.status === "restart" ? 2 : needsSomebody(stream) ? 1 : 0);

/** The spans of a stream's states between two times: [{state, from, to}], in the console's states. */
export function history({ changes, status, since }, begin, end) {
  const steps = changes.map(({ time, status: to, before }) => ({ at: time, state: markOf(to), from: before ? markOf(before) : "loaded" }));
  return spans(steps, markOf(status), since ?? begin, begin, end);
}

/** The lane of a stream's states, as SVG elements. */
export const stateLane = (stream, begin, end, width, y) => lane(history(stream, begin, end), begin, end, width, y);
