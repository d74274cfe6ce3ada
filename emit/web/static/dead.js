// Dead letters: by cause, then one by one.

import { ask, confirm, html, refill, when } from "./dom.js";

export class Dead {
  /**
   * @param element The section.
   * @param graph What the server tells of the graph: what may be done.
   * @param count Called with the number of letters.
   */
  constructor(element, graph, count) {
    this.element = element;
    this.graph = graph;
    this.count = count;
    this.open = null;
    this.fault = html("p", { class: "fault", role: "alert" });
    this.filter = html("input", { type: "search", oninput: () => this.#show() });
    this.groups = [];
    this.list = html("div", {});
    refill(
      element,
      html("h2", {}, "Dead letters"),
      html("label", {}, "Find in causes and nodes ", this.filter),
      this.fault,
      this.list,
    );
  }

  /** Read the groups again. */
  async load() {
    await this.#try(async () => {
      this.groups = await ask("api/dead");
      this.count(this.groups.reduce((sum, group) => sum + group.size, 0));
      this.#show();
    });
  }

  async #try(work) {
    try {
      this.fault.textContent = "";
      await work();
    } catch (error) {
      this.fault.textContent = error.message;
    }
  }

  #show() {
    const wanted = this.filter.value.trim().toLowerCase();
    const shown = this.groups.filter((group) =>
      `${group.node} ${group.type} ${group.text}`.toLowerCase().includes(wanted));
    const rows = shown.map((group) => this.#group(group));
    refill(this.list, ...(rows.length ? rows : [html("p", {}, "No dead letters.")]));
  }

  #group(group) {
    const inside = html("div", {});
    const details = html("details", { class: "group", open: this.open === group.id },
      html("summary", {},
        html("b", {}, String(group.size)), " ", html("span", { class: "node-name" }, group.node), " ",
        html("code", {}, group.type ? `${group.type}: ${group.text}` : group.text),
        html("small", {}, ` last ${when(group.last)}`)),
      html("p", {}, ...this.#buttons({ group: group.id }, `${group.size} of ${group.node}`)),
      inside);
    const fillIn = () => this.#try(async () => {
      if (!details.open) return;
      this.open = group.id;
      const { letters, more } = await ask(`api/dead/letters?group=${group.id}`);
      refill(inside,
        ...letters.map((letter) => this.#letter(letter)),
        more ? html("p", {}, "There are more: see emit dead list.") : null);
    });
    details.addEventListener("toggle", fillIn);
    if (details.open) fillIn();
    return details;
  }

  #letter(letter) {
    const inside = html("div", {});
    const details = html("details", { class: "letter" },
      html("summary", {}, html("code", {}, letter.id), ` ${when(letter.at)}, ${letter.attempts} attempts`),
      html("p", {}, ...this.#buttons({ id: letter.id }, letter.id)),
      inside);
    details.addEventListener("toggle", () => this.#try(async () => {
      if (!details.open || inside.childElementCount) return;
      const told = await ask(`api/dead/letter?id=${encodeURIComponent(letter.id)}`);
      refill(inside,
        html("p", {}, `From ${told.origin || "a call"}; fields: ${told.fields.join(", ")}`),
        this.graph.payloads ? this.#message(letter.id) : null,
        ...told.causes.map((cause) => html("div", {},
          html("small", {}, when(cause.at)),
          html("pre", {}, `${cause.type}: ${cause.text}\n${cause.stderr_tail}`.trim()))));
    }));
    return details;
  }

  #message(id) {
    const place = html("div", {});
    place.append(html("button", {
      type: "button",
      onclick: () => this.#try(async () => {
        const told = await ask(`api/dead/letter?id=${encodeURIComponent(id)}&message=1`);
        refill(place, html("pre", { class: "message" }, told.message),
          told.editable ? html("button", { type: "button", onclick: () => this.#edit(place, id, told.message) }, "Edit") : null);
      }),
    }, "Show the message"));
    return place;
  }

  #edit(place, id, message) {
    const area = html("textarea", { class: "message", rows: Math.min(20, message.split("\n").length + 1), spellcheck: "false" });
    area.value = message;
    const send = html("button", {
      type: "button",
      onclick: async () => {
        if (!(await confirm(`Send again with the edited message: ${id}?`, "Replay"))) return;
        await this.#try(() => ask("api/dead/edit", { id, message: area.value }));
        const said = this.fault.textContent;
        if (!said) await this.load();
        this.fault.textContent ||= said;
      },
    }, "Replay the edited message");
    refill(place,
      html("label", {}, "The message, as JSON. Hidden fields stay as they are.", area), send);
    area.focus();
  }

  #buttons(which, named) {
    const doing = [["replay", "Replay", "Send again"], ["drop", "Drop", "Delete"]];
    return doing.filter(([what]) => this.graph.allow.includes(what)).map(([what, label, verb]) =>
      html("button", {
        type: "button",
        onclick: async () => {
          if (!(await confirm(`${verb}: ${named}?`, label))) return;
          await this.#try(() => ask(`api/dead/${what}`, which));
          const said = this.fault.textContent;
          await this.load();
          this.fault.textContent ||= said;
        },
      }, label));
  }
}
