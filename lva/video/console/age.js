// How old a picture is, said on the picture: one that is old must not pass for a live one.

import { lasted, say, time } from "./dom.js";
import { isAtRest } from "./states.js";

/** Up to this age, in seconds, a picture is live. */
const LIVE = 2.5;

/** Say on a picture how old it is. `shown` is its time, or null while there is none. */
export function showAge(frame, note, label, stream, feed, shown) {
  const age = shown === null ? null : Math.max(0, feed.at - shown);
  const rests = isAtRest(stream);
  const old = !rests && (feed.isOld(stream) || feed.lost) && (age === null || age > LIVE);
  frame.classList.toggle("old", old);
  frame.classList.toggle("rests", rests);
  frame.classList.toggle("live", age !== null && age <= LIVE && !rests);
  say(note, age !== null ? "" : feed.ageOf(stream) === null ? "No picture yet" : rests || old ? "No picture" : "");
  say(label, age === null ? "" : old ? `Picture is ${lasted(age)} old, of ${time(shown)}` : age <= LIVE && !rests ? "live" : `${lasted(age)} ago`);
}
