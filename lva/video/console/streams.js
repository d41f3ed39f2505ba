// The console's page of streams: all of them as tiles, or one.

import { Grid } from "./grid.js";
import { StreamPage } from "./stream.js";

export function view(model, plugin) {
  const id = /^#\/([\w-]+)$/.exec(location.hash)?.[1];
  return id ? new StreamPage(model, plugin, id) : new Grid(model, plugin);
}
