// The console's own pages: the overview, and one for each plugin.

import { frame } from "./frame.js";
import { Overview } from "./overview.js";
import { PluginPage } from "./plugin.js";

frame((model) => {
  const plugin = /^#\/plugins\/(\w+)$/.exec(location.hash)?.[1];
  return plugin ? new PluginPage(model, plugin) : new Overview(model);
});
