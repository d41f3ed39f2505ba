// The agents of a fleet: how many streams each has of those it could have, and who gives no sign of life.

import { counted, h, lasted, mark, say, short } from "./dom.js";

/** Whether a stream is worked on by another agent of the fleet, or by none: its figures are not known here. */
export const isElsewhere = ({ frames }) => frames === null;

/** Which agent works on a stream, in a few words; nothing without a fleet. */
export function agentOf({ fleet }) {
  if (!fleet) return "";
  if (fleet.agent === null) return "no agent";
  return fleet.alive ? fleet.agent : `${fleet.agent}, not alive`;
}

/** A row of agents; nothing is shown without a fleet. */
export class Agents {
  element = h("section", { class: "agents", "aria-labelledby": "agents", hidden: true });
  #title = h("h2", { id: "agents" }, "Agents");
  #sum = h("small");
  #trouble = h("p", { class: "note bad", hidden: true });
  #broken = h("p", { class: "note bad", hidden: true });
  #list = h("ul");
  #items = new Map();

  constructor() {
    this.element.append(h("div", { class: "head" }, this.#title, this.#sum), this.#trouble, this.#broken, this.#list);
  }

  /** Show what `/fleet` says; null: there is no fleet. */
  show(fleet) {
    this.element.hidden = fleet === null;
    if (fleet === null) return;
    const { total, waiting } = fleet.streams;
    say(this.#sum, fleet.trouble !== null && !total ? `fleet ${fleet.name}` : `fleet ${fleet.name}: ${counted(total, "stream")}${waiting ? `, ${waiting} without an agent` : ""}`);
    note(this.#trouble, fleet.trouble === null ? "" : `This agent, ${fleet.agent}, is no part of the fleet now: ${fleet.trouble}`);
    note(this.#broken, fleet.broken.length ? `${counted(fleet.broken.length, "value")} of the fleet cannot be read: ${fleet.broken[0].reason}` : "");
    const names = new Set(fleet.agents.map(({ name }) => name));
    for (const [name, item] of this.#items)
      if (!names.has(name)) {
        item.element.remove();
        this.#items.delete(name);
      }
    fleet.agents.forEach((agent, index) => {
      if (!this.#items.has(agent.name)) this.#items.set(agent.name, new Agent());
      const item = this.#items.get(agent.name);
      item.show(agent, agent.name === fleet.agent);
      if (this.#list.children[index] !== item.element) this.#list.insertBefore(item.element, this.#list.children[index] ?? null);
    });
  }
}

class Agent {
  element = h("li");
  #mark = h("span");
  #name = h("b");
  #state = h("span", { class: "word" });
  #meter = h("i");
  #facts = h("small");

  constructor() {
    this.element.append(h("p", {}, this.#mark, this.#name, this.#state), h("span", { class: "room", "aria-hidden": "true" }, this.#meter), this.#facts);
  }

  show({ name, alive, draining, streams, room, load, silent, address, labels }, own) {
    const state = alive ? (draining ? "draining" : "alive") : "not alive";
    if (this.element.dataset.state !== state) {
      this.element.dataset.state = state;
      this.#mark.replaceChildren(mark({ alive: "running", draining: "stopping", "not alive": "failed" }[state]));
    }
    say(this.#name, name);
    say(this.#state, state === "alive" ? (own ? "this one" : "") : state);
    this.#meter.style.width = `${room ? Math.min(100, (100 * streams) / room) : streams ? 100 : 0}%`;
    say(this.#facts, `${streams} of ${counted(room, "stream")} · load ${short(load)} · ${silent < 2 ? "heard now" : `heard ${lasted(silent)} ago`}`);
    this.element.title = [address, ...labels].join("\n");
  }
}

function note(element, text) {
  element.hidden = !text;
  say(element, text);
}
