// What cannot wait for the modules: the chosen theme, which must not flash, and the stream, which may be on
// its way while they load.
{
  const chosen = localStorage.getItem("lva-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}

/** Ask for the events; return the promise of the answer, and what breaks it off. */
globalThis.openStream = () => {
  const abort = new AbortController();
  const token = sessionStorage.getItem("lva-token");
  const headers = { Accept: "text/event-stream", ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const answer = fetch("/events", { headers, cache: "no-store", signal: abort.signal });
  answer.catch(() => {}); // whoever awaits it hears of it
  return { abort, answer };
};
globalThis.firstStream = openStream();
