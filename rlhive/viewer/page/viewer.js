// The page of `rlhive view`. Answers come from the server, or in an exported file from the file itself.
// Every text of a dataset becomes a text node: nothing of it is ever parsed as HTML.

const PALETTE = 7; // colours --c0 … --c6
const ROW = 28; // height of a row of the list in pixels
const CHUNK = 16; // pictures that are asked for together
const MAX_PICTURES = 1500; // pictures in memory for each camera
const IN_FILE = "in file"; // the column of an exported file that says what it holds of an episode
const SCORES = ["outlier", "jerk", "idle", "path_length", "saturation", "distance_to_goal", "isolation", "duplicate_distance", "duplicate"];
const SCORE_LABELS = {
  jerk: "jerk (action units per second³)", idle: "share of idle steps", path_length: "path length (standard deviations)",
  saturation: "share of saturated actions", distance_to_goal: "distance to the goal at the end",
  isolation: "distance to other episodes' transitions (std)", duplicate_distance: "distance to the nearest episode (std)",
};
const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4, 8];
const LINE_LIMIT = 10; // columns of more dimensions begin as a heat map

// --- small helpers ---------------------------------------------------------------------------------------------------

/** Make an element: `h("p", { class: "muted" }, "text", child)`; functions become event handlers. */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  setAttributes(element, attributes);
  element.append(...children.filter((child) => child !== null && child !== undefined).map((child) => child));
  return element;
}

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  setAttributes(element, attributes);
  element.append(...children);
  return element;
}

function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
}

const byId = (id) => document.getElementById(id);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const color = (index) => css(`--c${index % PALETTE}`);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

/** Show a number with four significant digits. */
function number(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e7) return String(value);
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

function debounce(action, milliseconds) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...args), milliseconds);
  };
}

let statusTimer = 0;
function say(text, milliseconds = 4000) {
  byId("status").textContent = text;
  clearTimeout(statusTimer);
  if (milliseconds) statusTimer = setTimeout(() => (byId("status").textContent = ""), milliseconds);
}

// --- where answers come from -----------------------------------------------------------------------------------------

/** Answers of the server. */
class ServerSource {
  isFile = false;
  async ask(route, parameters = {}) {
    const query = new URLSearchParams(parameters).toString();
    return this.#read(fetch(`api/${route}${query ? `?${query}` : ""}`));
  }
  async send(route, value) {
    const headers = { "Content-Type": "application/json" };
    return this.#read(fetch(`api/${route}`, { method: "POST", headers, body: JSON.stringify(value) }));
  }
  async #read(request) {
    let response;
    try {
      response = await request;
    } catch {
      throw new Error("The viewer has ended: start it again in the terminal.");
    }
    const answer = await response.json();
    if (answer.error) throw new Error(answer.error);
    return answer;
  }
}

/** Answers of an exported file, each JSON in gzip in base64. */
class FileSource {
  isFile = true;
  constructor(packed) {
    this.packed = packed;
  }
  async ask(route, { start, stop, ...parameters } = {}) {
    if (route === "where") return this.#select(parameters.dataset, parameters.condition);
    const query = Object.entries(parameters).map(([name, value]) => `${name}=${value}`).join("&");
    const answer = await this.#unpack(query ? `${route}?${query}` : route);
    if (route === "episodes") answer.columns = this.#addContents(answer.columns, parameters.dataset);
    if (start === undefined) return answer;
    return { ...answer, cameras: answer.cameras.map((camera) => ({ ...camera, frames: camera.frames.slice(start, stop) })) };
  }
  /** Evaluate a condition on the columns of the list, since there is no server; see filter.js. */
  async #select(dataset, condition) {
    const { columns } = await this.#unpack(`episodes?dataset=${dataset}`);
    try {
      return { episodes: selectEpisodes(condition, columns) };
    } catch (error) {
      throw new Error(`Condition '${condition}': ${error.message}.`);
    }
  }
  /** Add a column that says what the file holds of each episode besides its row. */
  #addContents(columns, dataset) {
    const has = (route, episode) => `${route}?dataset=${dataset}&episode=${episode}` in this.packed;
    const contents = columns.episode.map((episode) => (has("frames", episode) ? "pictures" : has("series", episode) ? "numbers" : null));
    const { episode, ...others } = columns;
    return { episode, [IN_FILE]: contents, ...others };
  }
  async send() {
    say("Flags last as long as this page. Copy the condition to keep them.");
  }
  async #unpack(question) {
    const text = this.packed[question];
    if (text === undefined) throw new Error("Not in this exported file. The command rlhive view shows it.");
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const answer = await new Response(stream).json();
    if (answer.error) throw new Error(answer.error);
    return answer;
  }
}

// --- the list of episodes --------------------------------------------------------------------------------------------

const WIDTHS = { episode: 86, split: 84, length: 68, return: 88, success: 80, ended: 92, seed: 84, policy: 110 };

/** A grid that holds only the rows that are seen. */
class EpisodeList {
  constructor(onSelect, onFlag) {
    this.onSelect = onSelect;
    this.onFlag = onFlag;
    this.flagged = new Set();
    this.sort = { column: "episode", descending: false };
    this.selected = null;
    this.drawn = new Map(); // row of the table → its element
    this.heads = h("div", { class: "heads", role: "row" });
    this.body = h("div", { class: "body", role: "rowgroup", click: (event) => this.#click(event) });
    this.root = h(
      "div",
      { class: "grid", role: "grid", tabindex: "0", "aria-label": "Episodes", scroll: () => this.#draw() },
      h("div", { class: "heads-group", role: "rowgroup" }, this.heads),
      this.body,
    );
    new ResizeObserver(() => this.#draw()).observe(this.root);
  }

  /** Show the episodes of a dataset. */
  load(columns) {
    this.columns = columns;
    this.names = Object.keys(columns).filter((name) => name === "episode" || columns[name].some((value) => value !== null && value !== ""));
    this.isNumber = Object.fromEntries(this.names.map((name) => [name, columns[name].some((value) => typeof value === "number")]));
    const template = ["30px", ...this.names.map((name) => `${WIDTHS[name] ?? 130}px`)].join(" ");
    this.template = template;
    this.heads.style.gridTemplateColumns = template;
    this.heads.replaceChildren(h("span", { role: "columnheader", "aria-label": "Flag" }), ...this.names.map((name) => this.#head(name)));
    if (!this.names.includes(this.sort.column)) this.sort = { column: "episode", descending: false };
    this.visible = null;
    this.drawn.clear();
    this.body.replaceChildren();
    this.order();
  }

  #head(name) {
    const label = name.replace(/^metadata\./, "");
    const button = h("button", { type: "button", title: `Sort by ${name}`, click: () => this.sortBy(name) }, label);
    return h("div", { role: "columnheader", class: this.isNumber[name] ? "right" : "", "data-column": name }, button);
  }

  sortBy(column) {
    this.sort = { column, descending: this.sort.column === column && !this.sort.descending };
    this.order();
  }

  /** Show only some episodes, given as a Set of ids; null shows all. */
  filter(episodes) {
    this.visible = episodes;
    this.order();
  }

  order() {
    const ids = this.columns.episode;
    const rows = ids.map((_, row) => row).filter((row) => this.visible === null || this.visible.has(ids[row]));
    const values = this.columns[this.sort.column];
    const sign = this.sort.descending ? -1 : 1;
    rows.sort((a, b) => compareCells(values[a], values[b], sign) || a - b);
    this.rows = rows;
    for (const head of this.heads.querySelectorAll("[data-column]")) {
      const isSorted = head.dataset.column === this.sort.column;
      head.setAttribute("aria-sort", !isSorted ? "none" : this.sort.descending ? "descending" : "ascending");
    }
    this.body.style.height = `${rows.length * ROW}px`;
    this.root.setAttribute("aria-rowcount", rows.length + 1);
    this.#draw();
  }

  /** The episode `step` rows below the selected one, or the nearest that there is. */
  neighbour(step) {
    const index = this.rows.findIndex((row) => this.columns.episode[row] === this.selected);
    const next = index < 0 ? 0 : clamp(index + step, 0, this.rows.length - 1);
    return this.rows.length ? this.columns.episode[this.rows[next]] : null;
  }

  select(episode) {
    this.selected = episode;
    const index = this.rows.findIndex((row) => this.columns.episode[row] === episode);
    if (index >= 0) {
      const top = index * ROW;
      const height = this.root.clientHeight - ROW;
      if (top < this.root.scrollTop) this.root.scrollTop = top;
      else if (top + ROW > this.root.scrollTop + height) this.root.scrollTop = top + ROW - height;
    }
    this.#draw();
  }

  redraw() {
    this.#draw();
  }

  /** Draw the rows that are seen. Elements stay as long as their row is seen: a browser drops the click on one that goes. */
  #draw() {
    if (!this.rows) return;
    const first = Math.max(0, Math.floor(this.root.scrollTop / ROW) - 6);
    const seen = this.rows.slice(first, first + Math.ceil(this.root.clientHeight / ROW) + 12);
    const kept = new Set(seen);
    for (const [row, element] of this.drawn) {
      if (kept.has(row)) continue;
      element.remove();
      this.drawn.delete(row);
    }
    let next = this.body.firstChild;
    seen.forEach((row, index) => {
      if (!this.drawn.has(row)) this.drawn.set(row, this.#row(row));
      const element = this.drawn.get(row);
      this.#update(element, row, first + index);
      if (element === next) next = next.nextSibling;
      else this.body.insertBefore(element, next);
    });
    const selected = this.body.querySelector("[aria-selected=true]");
    if (selected) this.root.setAttribute("aria-activedescendant", selected.id);
    else this.root.removeAttribute("aria-activedescendant");
  }

  #click(event) {
    const row = event.target.closest(".row");
    if (!row) return;
    const episode = Number(row.dataset.episode);
    if (event.target.closest(".flag")) this.onFlag(episode);
    else this.onSelect(episode);
  }

  #row(row) {
    const flag = h("span", { class: "flag", role: "gridcell", title: "Flag (f)" }, "⚑");
    const cells = this.names.map((name) => this.#cell(name, this.columns[name][row]));
    const element = h("div", { role: "row", id: `row-${row}`, "data-episode": this.columns.episode[row] }, flag, ...cells);
    element.style.gridTemplateColumns = this.template;
    return element;
  }

  /** Show where a row stands, and whether it is selected and flagged. */
  #update(element, row, index) {
    const episode = this.columns.episode[row];
    const isFlagged = this.flagged.has(episode);
    element.className = isFlagged ? "row flagged" : "row";
    element.firstChild.setAttribute("aria-label", isFlagged ? "flagged" : "not flagged");
    element.setAttribute("aria-rowindex", index + 2);
    element.setAttribute("aria-selected", String(episode === this.selected));
    element.style.transform = `translateY(${index * ROW}px)`;
  }

  #cell(name, value) {
    const kind = value === null ? "none" : value === true ? "yes" : "";
    const text = value === true ? "yes" : value === false ? "no" : number(value);
    return h("span", { role: "gridcell", class: `${this.isNumber[name] ? "right " : ""}${kind}`, title: text.length > 12 ? text : null }, text);
  }
}

/** Put the scores behind the outcome, and what is the same for all episodes last. */
function orderColumns(columns) {
  const isConstant = (name) => name !== "episode" && columns.episode.length > 1 && columns[name].every((value) => value === columns[name][0]);
  const scores = SCORES.filter((name) => name in columns);
  const others = Object.keys(columns).filter((name) => !scores.includes(name));
  const place = others.indexOf("success") + 1;
  const names = [...others.slice(0, place), ...scores, ...others.slice(place)];
  const ordered = [...names.filter((name) => !isConstant(name)), ...names.filter(isConstant)];
  return Object.fromEntries(ordered.map((name) => [name, columns[name]]));
}

/** Order cells: missing ones last in both directions, numbers before texts. */
function compareCells(a, b, sign) {
  if (a === b) return 0;
  if (a === null) return 1;
  if (b === null) return -1;
  if (typeof a === "string" && typeof b === "string") return sign * (a < b ? -1 : 1);
  if (typeof a === "string") return 1;
  if (typeof b === "string") return -1;
  return sign * (a - b);
}

// --- the page with the list and the player ---------------------------------------------------------------------------

class EpisodesPage {
  constructor(app) {
    this.app = app;
    this.focus = 0;
    this.filterText = "";
    this.list = new EpisodeList(
      (episode) => this.open(episode),
      (episode) => this.toggleFlag(episode),
    );
    this.input = h("input", {
      type: "text",
      id: "filter",
      "aria-label": "Filter: condition on the episodes",
      placeholder: "success and return > -40   (/)",
      spellcheck: "false",
      autocomplete: "off",
      input: debounce(() => this.applyFilter(), 250),
      keydown: (event) => {
        if (event.key === "Enter") this.applyFilter();
        if (event.key === "Escape") this.input.blur();
      },
    });
    this.count = h("span", { id: "count" });
    this.filterError = h("p", { class: "error", role: "alert", hidden: true });
    this.slots = h("div", { class: "slots" });
    this.transport = new Transport(app.clock);
    this.scoreButton = h("button", { type: "button", id: "score", title: "Jerk, idle share, saturation, isolation, duplicates", click: () => this.computeScores() }, "Compute scores");
    const filter = h("div", { class: "filter" }, this.input, h("div", { class: "line" }, this.count, this.scoreButton), this.filterError);
    this.list.root.id = "list";
    if (app.source.isFile) {
      filter.append(h("p", { class: "muted exported" }, app.exported.note));
    }
    this.root = h(
      "section",
      { class: "page episodes", "aria-label": "Episodes" },
      h("div", { class: "list" }, filter, this.list.root, this.#flagBar()),
      h("div", { class: "stage" }, this.slots, this.transport.root),
    );
  }

  get dataset() {
    return this.app.datasets[this.focus] ?? this.app.datasets[0];
  }

  get datasetIndex() {
    return this.app.datasets.length > 1 ? this.focus : 0;
  }

  async start() {
    this.players = [];
    await Promise.all(this.app.datasets.map((dataset, index) => this.#read(dataset, index)));
    for (const _ of this.app.datasets) this.addSlot();
    await this.showDataset();
    const contents = this.list.columns[IN_FILE];
    const row = this.list.rows.find((place) => contents?.[place] === "pictures") ?? this.list.rows.find((place) => contents?.[place]) ?? this.list.rows[0];
    if (row !== undefined) await this.open(this.list.columns.episode[row]);
  }

  async #read(dataset, index) {
    const { source } = this.app;
    const [episodes, flags] = await Promise.all([source.ask("episodes", { dataset: index }), source.ask("flags", { dataset: index })]);
    Object.assign(dataset, { episodes, flagged: new Set(flags.flagged) });
  }

  /** Show the list of the focused dataset. */
  async showDataset() {
    const dataset = this.dataset;
    this.list.flagged = dataset.flagged;
    this.list.load(orderColumns(dataset.episodes.columns));
    this.scoreButton.hidden = this.app.source.isFile || "outlier" in dataset.episodes.columns;
    if (dataset.episodes.omitted) say(`${plural(dataset.episodes.omitted, "further episode")} are not in the list`, 8000);
    if (this.input.value.trim()) await this.applyFilter();
    this.#count();
    this.#showFlags();
  }

  /** Compute the scores of the dataset, which takes seconds, and add them to the list. */
  async computeScores() {
    const { dataset, datasetIndex } = this;
    this.scoreButton.disabled = true;
    this.scoreButton.textContent = "Computing…";
    try {
      const { columns } = await this.app.source.ask("scores", { dataset: datasetIndex });
      Object.assign(dataset.episodes.columns, columns);
      this.app.pages.delete("Distributions"); // it is drawn anew, with the scores
      if (this.dataset === dataset) await this.showDataset();
      const count = columns.outlier.filter(Boolean).length;
      say(`${plural(count, "episode")} stand${count === 1 ? "s" : ""} out: outlier != ''`, 8000);
    } catch (error) {
      say(error.message, 8000);
    }
    this.scoreButton.disabled = false;
    this.scoreButton.textContent = "Compute scores";
  }

  async applyFilter() {
    const condition = this.input.value.trim();
    this.filterError.hidden = true;
    const waiting = setTimeout(() => (this.count.textContent = "Filtering…"), 400); // scores may have to be computed first
    try {
      const answer = condition ? await this.app.source.ask("where", { dataset: this.datasetIndex, condition }) : null;
      if (condition !== this.input.value.trim()) return; // a later one is on its way
      this.filterText = condition;
      this.list.filter(answer && new Set(answer.episodes));
    } catch (error) {
      if (condition !== this.input.value.trim()) return;
      this.filterError.textContent = error.message;
      this.filterError.hidden = false;
    } finally {
      clearTimeout(waiting);
    }
    this.#count();
  }

  #count() {
    const total = this.list.columns.episode.length;
    const shown = this.list.rows.length;
    this.count.textContent = shown === total ? plural(total, "episode") : `${shown.toLocaleString("en")} of ${plural(total, "episode")}`;
  }

  // --- slots: one player, or two side by side ---

  addSlot() {
    const index = this.players.length;
    const player = new Player(this.app, this.app.datasets.length > 1 ? index : 0, {
      onFocus: () => this.focusSlot(index),
      onFlag: (episode) => this.focusSlot(index).then(() => this.toggleFlag(episode)),
      onOpen: (episode) => this.focusSlot(index).then(() => this.open(episode)),
    });
    this.players.push(player);
    this.slots.append(player.root);
    this.#markSlots();
    return player;
  }

  #markSlots() {
    this.slots.classList.toggle("two", this.players.length > 1);
    this.players.forEach((player, index) => player.root.classList.toggle("focused", index === this.focus));
  }

  async focusSlot(index) {
    if (index === this.focus) return;
    this.focus = index;
    this.#markSlots();
    if (this.app.datasets.length > 1) await this.showDataset();
    this.list.select(this.players[index].episode);
  }

  /** Put an episode into the focused slot; of two datasets, the one with the same id into the other slot too. */
  async open(episode) {
    const player = this.players[this.focus];
    this.list.select(episode);
    const loads = [player.load(episode, findFacts(this.dataset, episode), this.dataset.flagged.has(episode))];
    if (this.app.datasets.length > 1) loads.push(this.#openTwin(episode));
    await Promise.all(loads);
    this.app.clock.setDuration(Math.max(...this.players.map((other) => other.duration)));
  }

  async #openTwin(episode) {
    const other = 1 - this.focus;
    const dataset = this.app.datasets[other];
    const facts = findFacts(dataset, episode);
    if (!facts) {
      this.players[other].clear(`${"AB"[other]}: Episode ${episode} is not in ${dataset.version}`);
      return;
    }
    await this.players[other].load(episode, facts, dataset.flagged.has(episode));
  }

  async step(count) {
    const episode = this.list.neighbour(count);
    if (episode !== null) await this.open(episode);
  }

  /** Show a second episode beside the first one, or only one again. */
  async toggleCompare() {
    if (this.app.datasets.length > 1) {
      say("Two datasets are side by side already.");
    } else if (this.players.length > 1) {
      this.players.pop().remove();
      this.focus = 0;
      this.#markSlots();
      this.list.select(this.players[0].episode);
      this.app.clock.setDuration(this.players[0].duration);
    } else {
      this.addSlot();
      this.focus = 1;
      this.#markSlots();
      await this.step(1);
      say("The list now opens episodes on the right. c ends the comparison.");
    }
  }

  // --- flags ---

  #flagBar() {
    this.flagText = h("code", { id: "flag-text" });
    this.flagCount = h("span");
    this.saveButton = h("button", { type: "button", id: "save", click: () => this.openSaveDialog() }, "Save as version…");
    const copy = h("button", { type: "button", click: () => this.copyFlags() }, "Copy");
    this.flagBox = h("div", { class: "flags" }, h("div", { class: "line" }, this.flagCount, h("span", {}, copy, " ", this.saveButton)), this.flagText);
    return this.flagBox;
  }

  get condition() {
    const flagged = [...this.dataset.flagged].sort((a, b) => a - b);
    return flagged.length ? `episode not in [${flagged.join(", ")}]` : "";
  }

  toggleFlag(episode = this.players[this.focus].episode) {
    if (episode === null) return;
    const { flagged } = this.dataset;
    if (flagged.has(episode)) flagged.delete(episode);
    else flagged.add(episode);
    this.list.redraw();
    for (const player of this.players) {
      if (player.episode === episode && player.dataset === this.datasetIndex) player.markFlag(flagged.has(episode));
    }
    this.#showFlags();
    this.#storeFlags(this.datasetIndex, [...flagged]);
  }

  #storeFlags = debounce(async (dataset, flagged) => {
    try {
      await this.app.source.send("flags", { dataset, flagged });
    } catch (error) {
      say(`The flags are not saved: ${error.message}`, 0);
    }
  }, 200);

  #showFlags() {
    const count = this.dataset.flagged.size;
    this.flagBox.hidden = count === 0 && !this.filterText;
    this.flagCount.textContent = count ? `${plural(count, "flag")}; the others are:` : "";
    this.flagText.textContent = this.condition;
    this.saveButton.hidden = this.app.source.isFile;
    this.flagBox.hidden = count === 0;
  }

  async copyFlags() {
    try {
      await navigator.clipboard.writeText(this.condition);
      say("Copied: a condition for where() and --where");
    } catch {
      getSelection().selectAllChildren(this.flagText);
      say("Selected: copy it with Ctrl-C");
    }
  }

  openSaveDialog() {
    const name = h("input", { type: "text", id: "save-name", "aria-label": "Name of the dataset", value: this.dataset.name, spellcheck: "false" });
    const withFilter = h("input", { type: "checkbox", id: "save-filter" });
    const answer = h("p", { class: "muted", role: "status" });
    const button = h("button", { type: "submit", class: "primary" }, "Save");
    const form = h(
      "form",
      { method: "dialog" },
      h("h2", {}, "Save the episodes without a flag as a version"),
      h("p", { class: "muted" }, "Under the same name it becomes the next version; the versions before it stay as they are."),
      h("p", {}, name),
      this.filterText ? h("p", {}, h("label", {}, withFilter, ` only those that meet `, h("code", {}, this.filterText))) : null,
      answer,
      h("p", { class: "line" }, button, " ", h("button", { type: "button", click: () => dialog.close() }, "Close")),
    );
    const dialog = showDialog(form);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      button.disabled = true;
      answer.textContent = "Writing…";
      try {
        const value = { dataset: this.datasetIndex, flagged: [...this.dataset.flagged], save_as: name.value.trim() };
        const saved = await this.app.source.send("flags", withFilter.checked ? { ...value, where: this.filterText } : value);
        answer.textContent = `Saved: ${saved.saved.name} ${saved.saved.version}, ${plural(saved.saved.episodes, "episode")}`;
      } catch (error) {
        answer.textContent = error.message;
        button.disabled = false;
      }
    });
    name.select();
  }
}

/** Show a dialog that Escape closes. */
function showDialog(content) {
  const dialog = h("dialog", { close: () => dialog.remove() }, content);
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

// --- the clock of all players ----------------------------------------------------------------------------------------

class Clock {
  time = 0;
  duration = 0;
  speed = 1;
  isPlaying = false;
  listeners = new Set();
  holders = new Set(); // functions that say whether a moment cannot be shown yet

  setDuration(seconds) {
    this.duration = seconds;
    this.seek(Math.min(this.time, seconds));
  }

  seek(seconds) {
    this.time = clamp(seconds, 0, this.duration);
    for (const listener of this.listeners) listener();
  }

  toggle() {
    if (this.isPlaying) this.pause();
    else this.play();
  }

  play() {
    if (this.time >= this.duration - 1e-9) this.seek(0);
    this.isPlaying = true;
    let before = performance.now();
    const tick = (now) => {
      if (!this.isPlaying) return;
      const next = this.time + ((now - before) / 1000) * this.speed;
      before = now;
      if (![...this.holders].some((holds) => holds(next))) this.seek(next);
      if (this.time >= this.duration) this.pause();
      else requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
    this.seek(this.time);
  }

  pause() {
    this.isPlaying = false;
    this.seek(this.time);
  }

  changeSpeed(step) {
    this.speed = SPEEDS[clamp(SPEEDS.indexOf(this.speed) + step, 0, SPEEDS.length - 1)];
    this.seek(this.time);
  }
}

class Transport {
  constructor(clock) {
    this.clock = clock;
    this.play = h("button", { type: "button", class: "play", id: "play", title: "Play (space)", click: () => clock.toggle() }, "▶");
    this.range = h("input", {
      type: "range", id: "scrub", min: "0", max: "1000", step: "1", "aria-label": "Time",
      input: () => clock.seek((Number(this.range.value) / 1000) * clock.duration),
    });
    this.speed = h(
      "select",
      { "aria-label": "Speed ([ and ])", id: "speed", change: () => { clock.speed = Number(this.speed.value); this.speed.blur(); } },
      ...SPEEDS.map((speed) => h("option", { value: speed, selected: speed === 1 }, `${speed}×`)),
    );
    this.label = h("span", { class: "time number", id: "time" });
    this.root = h("div", { class: "transport", role: "group", "aria-label": "Playback" }, this.play, this.range, this.label, this.speed);
    clock.listeners.add(() => this.#update());
  }

  #update() {
    const { time, duration, isPlaying, speed } = this.clock;
    this.play.textContent = isPlaying ? "❚❚" : "▶";
    this.play.setAttribute("aria-label", isPlaying ? "Pause" : "Play");
    this.range.value = duration ? (time / duration) * 1000 : 0;
    this.range.setAttribute("aria-valuetext", `${time.toFixed(2)} of ${duration.toFixed(2)} seconds`);
    this.label.textContent = `${time.toFixed(2)} / ${duration.toFixed(2)} s`;
    this.speed.value = String(speed);
  }
}

// --- one episode: pictures and time series ---------------------------------------------------------------------------

class Player {
  constructor(app, dataset, { onFocus, onFlag, onOpen }) {
    this.app = app;
    this.dataset = dataset;
    this.onOpen = onOpen;
    this.episode = null;
    this.series = null;
    this.charts = [];
    this.dt = app.datasets[dataset].fps ? 1 / app.datasets[dataset].fps : 0.1;
    this.title = h("h2");
    this.facts = h("span", { class: "facts" });
    this.flag = h("button", { type: "button", "aria-pressed": "false", title: "Flag (f)", click: () => onFlag(this.episode) }, "⚑ flag");
    this.cameras = h("div", { class: "cameras" });
    this.pictureNote = h("p", { class: "muted" });
    this.plots = h("div", { class: "plots" });
    this.nearest = h("div", { class: "nearest" });
    this.root = h(
      "article",
      { class: "slot", "aria-label": "Episode", pointerdown: onFocus },
      h("div", { class: "slot-head" }, this.title, this.facts, this.flag),
      h("div", { class: "scene" }, h("div", { class: "seen" }, this.cameras, this.pictureNote, this.nearest), this.plots),
    );
    this.listener = () => this.show();
    this.holder = (time) => Boolean(this.series && this.pictures?.isWaiting(this.stepAt(time)));
    app.clock.listeners.add(this.listener);
    app.clock.holders.add(this.holder);
  }

  /** Take the player off the page. */
  remove() {
    this.clear("");
    this.app.clock.listeners.delete(this.listener);
    this.app.clock.holders.delete(this.holder);
    this.root.remove();
  }

  stepAt(time) {
    return Math.min(this.steps, Math.floor(time / this.dt + 1e-6));
  }

  get info() {
    return this.app.datasets[this.dataset];
  }

  get steps() {
    return this.series?.length ?? 0;
  }

  get duration() {
    return this.steps * this.dt;
  }

  clear(message) {
    this.episode = this.series = null;
    this.pictures?.stop();
    this.pictures = null;
    this.#dropCharts();
    this.cameras.replaceChildren();
    this.nearest.replaceChildren();
    this.facts.textContent = this.pictureNote.textContent = "";
    this.title.textContent = message;
  }

  async load(episode, facts, isFlagged) {
    this.pictures?.stop();
    this.episode = episode;
    const isPair = this.app.datasets.length > 1; // the bar at the top says which datasets A and B are
    this.title.textContent = isPair ? `${"AB"[this.dataset]}: Episode ${episode}` : `Episode ${episode}`;
    this.facts.textContent = this.facts.title = describeFacts(facts);
    this.markFlag(isFlagged);
    let series;
    try {
      series = await this.app.source.ask("series", { dataset: this.dataset, episode });
    } catch (error) {
      if (this.episode === episode) {
        this.clear(`Episode ${episode}`);
        this.episode = episode; // it can be flagged all the same
        this.pictureNote.textContent = error.message;
      }
      return;
    }
    if (this.episode !== episode) return; // the next one was asked for meanwhile
    this.series = series;
    this.terms = null;
    this.drawCharts();
    this.pictures = new Pictures(this.app.source, this.dataset, episode, this.cameras, this.pictureNote, () => this.show());
    this.pictures.start();
    this.#showNearest(facts);
    this.show();
  }

  markFlag(isFlagged) {
    this.flag.setAttribute("aria-pressed", String(Boolean(isFlagged)));
    this.flag.textContent = isFlagged ? "⚑ flagged" : "⚑ flag";
  }

  #dropCharts() {
    for (const chart of this.charts) chart.stop();
    this.charts = [];
    this.plots.replaceChildren();
  }

  drawCharts() {
    this.#dropCharts();
    if (!this.series) return;
    const { columns, stride, fps } = this.series;
    const count = columns[0]?.values[0]?.length ?? 0;
    const unit = fps ? this.dt : 1;
    const x = Array.from({ length: count }, (_, index) => index * stride * unit);
    const axis = { x, label: fps ? "time (s)" : "step", scale: this.dt / unit, stride };
    const solved = columns.find((column) => column.name === "next.success") ?? columns.find((column) => column.name === "success");
    const hasReward = columns.some((column) => column.name === "next.reward");
    for (const column of columns) {
      const isFlag = column.name === "next.success" || column.name === "success";
      if (isFlag && hasReward) continue; // the band behind the reward shows it
      const band = column.name === "next.reward" ? solved?.values[0] : null;
      const chart = new ColumnChart(column, axis, (seconds) => this.app.clock.seek(seconds), band);
      this.charts.push(chart);
      this.plots.append(chart.root);
      chart.draw();
    }
    this.#addTerms();
    if (stride > 1) this.plots.append(h("p", { class: "muted" }, `Of this long episode every ${stride}th step is drawn.`));
  }

  /** Add the reward's terms, which the simulator computes, to the chart of the reward; then also for further episodes. */
  #addTerms() {
    const { episode } = this;
    const chart = this.charts.find((other) => other.column.name === "next.reward");
    if (!chart || this.app.source.isFile) return;
    chart.offerTerms(async () => {
      this.app.withTerms = true;
      this.terms ??= this.app.source.ask("terms", { dataset: this.dataset, episode });
      try {
        const { terms } = await this.terms;
        if (this.charts.includes(chart)) chart.addLines(terms);
      } catch (error) {
        this.app.withTerms = false;
        this.terms = null;
        throw error;
      }
    });
    if (this.app.withTerms) chart.showTerms();
  }

  #showNearest(facts) {
    const { episode } = this;
    const content = h("div");
    const duplicate = facts?.["duplicate of"];
    const link = (other, text) => h("button", { type: "button", click: () => this.onOpen(other) }, text);
    const ask = async () => {
      content.replaceChildren(h("p", { class: "muted" }, "Reading…"));
      try {
        const answer = await this.app.source.ask("neighbours", { dataset: this.dataset, episode });
        const rows = answer.nearest.map((row) => h("tr", {}, h("td", {}, link(row.episode, `episode ${row.episode}`)), h("td", { class: "right" }, number(row.distance))));
        const head = h("tr", {}, h("th", {}, "nearest"), h("th", { class: "right" }, "distance"));
        content.replaceChildren(
          h("table", {}, h("thead", {}, head), h("tbody", {}, ...rows)),
          h("p", { class: "muted" }, `Mean difference in standard deviations, at ${answer.moments} moments, among ${plural(answer.compared, "episode")}.`),
        );
      } catch (error) {
        content.replaceChildren(h("p", { class: "muted" }, error.message));
      }
    };
    const details = h("details", { toggle: () => details.open && !content.childElementCount && ask() }, h("summary", {}, "Nearest episodes"), content);
    this.nearest.replaceChildren(
      ...(duplicate !== null && duplicate !== undefined ? [h("p", { class: "warned" }, "The same content as ", link(duplicate, `episode ${duplicate}`))] : []),
      details,
    );
  }

  /** Show the moment of the clock. */
  show() {
    if (!this.series) return;
    const time = Math.min(this.app.clock.time, this.duration);
    const step = this.stepAt(time);
    for (const chart of this.charts) chart.setTime(time, step);
    this.pictures?.show(step);
  }
}

/** The values of an episode by column, or null where the dataset has no such episode. */
function findFacts({ episodes: { columns } }, episode) {
  const row = columns.episode.indexOf(episode);
  return row < 0 ? null : Object.fromEntries(Object.keys(columns).map((name) => [name, columns[name][row]]));
}

function describeFacts(facts) {
  if (!facts) return "";
  const solved = facts.success === true ? "solved" : facts.success === false ? "not solved" : null;
  const value = facts.return === null ? null : `return ${number(facts.return)}`;
  const policy = facts.policy && facts.policy !== facts.split ? facts.policy : null;
  const outlier = facts.outlier ? `stands out: ${facts.outlier}` : null;
  const parts = [value, solved, outlier, facts.split, plural(facts.length, "step"), facts.ended, policy];
  return parts.filter((part) => part !== null && part !== undefined).join(" · ");
}

/** The pictures of an episode: those ahead are fetched while it plays. */
class Pictures {
  constructor(source, dataset, episode, root, note, onReady) {
    Object.assign(this, { source, dataset, episode, root, note, onReady });
    this.cameras = null;
    this.asked = new Set();
    this.step = 0;
    this.isStopped = false;
  }

  async start() {
    this.root.replaceChildren();
    this.note.textContent = "";
    const waiting = setTimeout(() => !this.cameras && !this.isStopped && (this.note.textContent = "Pictures are on their way…"), 400);
    await this.#fetch(0, 1); // the first one at once, since each may have to be rendered
    clearTimeout(waiting);
  }

  stop() {
    this.isStopped = true;
  }

  async #fetch(start, count = CHUNK) {
    const key = `${start}-${count}`;
    if (this.isStopped || this.asked.has(key)) return;
    this.asked.add(key);
    let answer;
    try {
      answer = await this.source.ask("frames", { dataset: this.dataset, episode: this.episode, start, stop: start + count });
    } catch (error) {
      this.hasFailed = true;
      if (!this.isStopped) this.note.textContent = error.message;
      return;
    }
    if (this.isStopped) return;
    this.note.textContent = "";
    if (!this.cameras) this.#makeCameras(answer);
    answer.cameras.forEach((camera, index) => {
      camera.frames.forEach((frame, offset) => {
        const image = new Image();
        image.onload = () => this.step === start + offset && this.show(this.step);
        image.src = `data:image/jpeg;base64,${frame}`;
        this.cameras[index].frames.set(start + offset, image);
      });
    });
    this.total = answer.total;
    this.#forgetFar();
    this.onReady();
  }

  #makeCameras(answer) {
    this.cameras = answer.cameras.map(({ name }) => {
      const canvas = h("canvas", { role: "img", "aria-label": `Picture of ${name}` });
      this.root.append(h("figure", {}, canvas, h("figcaption", {}, name)));
      return { canvas, frames: new Map() };
    });
  }

  #forgetFar() {
    for (const { frames } of this.cameras) {
      for (const key of frames.keys()) {
        if (frames.size <= MAX_PICTURES) break;
        if (Math.abs(key - this.step) > MAX_PICTURES / 3) {
          frames.delete(key);
          this.asked.delete(`${Math.floor(key / CHUNK) * CHUNK}-${CHUNK}`);
        }
      }
    }
  }

  /** Whether a picture of a step is still on its way. */
  isWaiting(step) {
    return Boolean(this.cameras) && !this.hasFailed && step < this.total && !this.cameras[0].frames.get(step)?.complete;
  }

  show(step) {
    this.step = step;
    if (!this.cameras) return;
    const start = Math.floor(step / CHUNK) * CHUNK;
    for (const next of [start, start + CHUNK]) if (next < this.total) this.#fetch(next);
    for (const { canvas, frames } of this.cameras) {
      const image = frames.get(step);
      const isThere = Boolean(image?.complete && image.naturalWidth);
      canvas.classList.toggle("stale", !isThere);
      if (!isThere) continue;
      if (canvas.width !== image.naturalWidth || canvas.height !== image.naturalHeight) {
        canvas.width = image.naturalWidth;
        canvas.height = image.naturalHeight;
      }
      canvas.getContext("2d").drawImage(image, 0, 0);
      canvas.dataset.step = step;
      canvas.dataset.episode = this.episode;
    }
  }
}

/** Bounds of an axis: some room beyond the values. */
function padRange(low, high) {
  const room = high > low ? 0.07 * (high - low) : Math.max(0.5, Math.abs(low) * 0.1);
  return [low - room, high + room];
}

/** The values of one column over time, as lines or as a heat map. */
class ColumnChart {
  constructor(column, axis, onSeek, band) {
    Object.assign(this, { column, axis, onSeek, band });
    this.lines = column.values.map((values, index) => ({ name: column.values.length === 1 ? column.name : `${index}`, values }));
    this.isHeat = column.values.length > LINE_LIMIT;
    this.readout = h("span", { class: "readout number" });
    this.toggle = h("button", { type: "button", click: () => this.switchKind() });
    this.toggle.hidden = column.values.length === 1;
    this.plot = h("div", { class: "plot" });
    this.playhead = h("div", { class: "playhead" });
    this.head = h("div", { class: "chart-head" }, h("h3", {}, column.name), this.readout, this.toggle);
    this.root = h("section", { class: "chart", "aria-label": `${column.name} over time` }, this.head, this.plot);
    this.observer = new ResizeObserver(() => this.#resize());
    const notes = [
      band?.some((value) => value > 0) ? "shaded: solved" : null,
      column.omitted ? `${plural(column.omitted, "further dimension")} not drawn` : null,
      column.not_finite ? `${plural(column.not_finite, "value")} not finite` : null,
    ].filter(Boolean);
    if (notes.length) this.root.append(h("p", { class: "muted note" }, notes.join("; ")));
  }

  stop() {
    this.observer.disconnect();
    this.uplot?.destroy();
    this.uplot = null;
  }

  switchKind() {
    this.isHeat = !this.isHeat;
    this.draw();
  }

  offerTerms(ask) {
    this.termsButton = h("button", { type: "button", click: () => this.showTerms() }, "terms");
    this.askTerms = ask;
    this.head.append(this.termsButton);
  }

  async showTerms() {
    this.termsButton.disabled = true;
    this.termsButton.textContent = "computing…";
    try {
      await this.askTerms();
      this.termsButton.hidden = true;
    } catch (error) {
      this.termsButton.textContent = "terms";
      this.termsButton.title = error.message;
      say(error.message, 8000);
    }
  }

  addLines(terms) {
    for (const [name, values] of Object.entries(terms)) this.lines.push({ name, values });
    this.legend = true;
    this.draw();
  }

  draw() {
    this.uplot?.destroy();
    this.uplot = null;
    this.observer.disconnect();
    this.toggle.textContent = this.isHeat ? "lines" : "heat map";
    this.plot.replaceChildren();
    if (this.isHeat) this.#drawHeat();
    else this.#drawLines();
    this.observer.observe(this.plot);
    this.#legend();
    this.setTime(this.time ?? 0, this.step ?? 0);
  }

  #legend() {
    this.legendElement?.remove();
    if (!this.legend || this.isHeat) return;
    const items = this.lines.map((line, index) => {
      const mark = h("i");
      mark.style.background = color(index);
      return h("span", {}, mark, `${line.name} `, h("span", { class: "number" }));
    });
    this.legendElement = h("div", { class: "legend" }, ...items);
    this.plot.after(this.legendElement);
  }

  #drawLines() {
    const axis = {
      stroke: css("--muted"), grid: { stroke: css("--line"), width: 1 }, ticks: { show: false },
      font: '11px system-ui, sans-serif', labelFont: '11px system-ui, sans-serif',
    };
    const thin = this.lines.length > 12;
    const options = {
      width: Math.max(200, this.plot.clientWidth), height: this.lines.length > 1 ? 180 : 130, legend: { show: false },
      padding: [6, 8, 0, 0],
      cursor: { x: false, y: false, points: { show: false }, drag: { x: false, y: false } },
      scales: { x: { time: false }, y: { range: (_, low, high) => (low === null ? [0, 1] : padRange(low, high)) } },
      hooks: { drawClear: [(plot) => this.#drawBand(plot)] },
      axes: [{ ...axis, size: 24 }, { ...axis, size: 50, values: (_, ticks) => ticks.map(number) }],
      series: [
        {},
        ...this.lines.map((_, index) => ({
          stroke: color(index), width: thin ? 0.8 : 1.4, dash: [[], [6, 4], [2, 3]][Math.floor(index / PALETTE) % 3], points: { show: false },
        })),
      ],
    };
    this.uplot = new uPlot(options, [this.axis.x, ...this.lines.map((line) => line.values)], this.plot);
    this.uplot.over.append(this.playhead);
    setAttributes(this.uplot.root.querySelector("canvas"), { role: "img", "aria-label": `Lines of ${this.column.name} over time` });
    this.#scrub(this.uplot.over, (left) => this.uplot.posToVal(left, "x"));
  }

  /** Shade the states in which the task is solved. */
  #drawBand(plot) {
    if (!this.band) return;
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.globalAlpha = 0.16;
    ctx.fillStyle = color(2);
    const place = (index) => plot.valToPos(this.axis.x[Math.max(0, index)], "x", true);
    for (let first = 0; first < this.band.length; first += 1) {
      if (!(this.band[first] > 0)) continue;
      let last = first; // one rectangle for a run of solved states
      while (this.band[last + 1] > 0) last += 1;
      ctx.fillRect(place(first - 1), bbox.top, place(last) - place(first - 1), bbox.height);
      first = last;
    }
    ctx.restore();
  }

  #drawHeat() {
    const rows = this.column.values.length;
    const middleName = this.column.offset.every((value) => value === 0) ? "0" : "the mean";
    const meaning = `A row for each of ${plural(rows, "dimension")}; orange is below ${middleName}, violet above.`;
    const canvas = h("canvas", { class: "heat", role: "img", "aria-label": `Heat map of ${this.column.name}. ${meaning}` });
    const steps = this.axis.x.length;
    canvas.width = steps;
    canvas.height = rows;
    const height = clamp(rows * 4, 60, 300);
    canvas.style.height = `${height}px`;
    canvas.style.imageRendering = "pixelated";
    const context = canvas.getContext("2d");
    const image = context.createImageData(steps, rows);
    const [low, middle, high] = ["--low", "--middle", "--high"].map((name) => css(name).split(" ").map(Number));
    this.column.values.forEach((values, row) => {
      const { offset, scale } = this.column;
      values.forEach((value, step) => {
        const score = value === null ? null : clamp((value - offset[row]) / scale[row], -1, 1);
        const end = score < 0 ? low : high;
        for (let part = 0; part < 3; part += 1) {
          image.data[4 * (row * steps + step) + part] = score === null ? middle[part] : middle[part] + (end[part] - middle[part]) * Math.abs(score);
        }
        image.data[4 * (row * steps + step) + 3] = 255;
      });
    });
    context.putImageData(image, 0, 0);
    const wrap = h("div", { class: "heat-wrap" }, canvas, this.playhead);
    this.plot.append(wrap, h("p", { class: "muted key" }, meaning));
    const last = this.axis.x[steps - 1] || 1;
    this.#scrub(wrap, (left) => (left / wrap.clientWidth) * last);
    wrap.addEventListener("pointermove", (event) => {
      const box = wrap.getBoundingClientRect();
      const row = clamp(Math.floor(((event.clientY - box.top) / box.height) * rows), 0, rows - 1);
      const step = clamp(Math.floor(((event.clientX - box.left) / box.width) * steps), 0, steps - 1);
      this.readout.textContent = `dimension ${row}: ${number(this.column.values[row][step])}`;
    });
    wrap.addEventListener("pointerleave", () => this.#read());
  }

  /** Seek where the pointer is pressed or dragged. */
  #scrub(element, toAxis) {
    const seek = (event) => this.onSeek(toAxis(event.clientX - element.getBoundingClientRect().left) * this.axis.scale);
    element.addEventListener("pointerdown", (event) => {
      element.setPointerCapture(event.pointerId);
      seek(event);
    });
    element.addEventListener("pointermove", (event) => event.buttons === 1 && seek(event));
  }

  #resize() {
    const width = this.plot.clientWidth;
    if (this.uplot && width && Math.abs(this.uplot.width - width) > 1) this.uplot.setSize({ width, height: this.uplot.height });
    this.setTime(this.time ?? 0, this.step ?? 0);
  }

  setTime(time, step) {
    this.time = time;
    this.step = step;
    const at = time / this.axis.scale;
    const last = this.axis.x[this.axis.x.length - 1] || 1;
    const width = this.playhead.parentElement?.clientWidth ?? 0;
    const left = this.uplot ? this.uplot.valToPos(at, "x") : (at / last) * width;
    this.playhead.style.transform = `translateX(${clamp(left || 0, 0, width)}px)`;
    this.#read();
  }

  #read() {
    const index = clamp(Math.floor((this.step ?? 0) / this.axis.stride), 0, this.axis.x.length - 1);
    const values = this.lines.map((line) => number(line.values[index]));
    this.readout.textContent = this.lines.length === 1 ? values[0] : "";
    const places = this.legendElement?.querySelectorAll(".number") ?? [];
    places.forEach((place, line) => (place.textContent = values[line]));
  }
}

// --- distributions ---------------------------------------------------------------------------------------------------

/** The splits of all datasets, each with its colour; of a second dataset dashed. */
function listParts(app) {
  const parts = [];
  app.datasets.forEach((dataset, index) => {
    for (const split of Object.keys(dataset.splits)) {
      const label = app.datasets.length > 1 ? `${"AB"[index]}: ${split}` : split;
      parts.push({ dataset: index, split, label, color: `var(--c${parts.length % PALETTE})`, index: parts.length });
    }
  });
  return parts;
}

function legend(parts) {
  if (parts.length < 2) return null;
  const items = parts.map((part) => {
    const mark = h("i");
    mark.style.background = part.color;
    return h("span", {}, mark, part.label);
  });
  return h("div", { class: "legend" }, ...items);
}

function card(title, ...content) {
  return h("section", { class: "card", "aria-label": title }, h("h2", {}, title), ...content);
}

/** A coordinate system in an SVG: `x` and `y` map values to places. */
function makeFigure({ width = 430, height = 200, left = 52, bottom = 34, top = 22, right = 12, xs, ys, label, xLabel, yLabel, xTicks, yTicks }) {
  const x = (value) => left + ((value - xs[0]) / (xs[1] - xs[0] || 1)) * (width - left - right);
  const y = (value) => height - bottom - ((value - ys[0]) / (ys[1] - ys[0] || 1)) * (height - top - bottom);
  const root = svg("svg", { class: "figure", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const value of yTicks ?? ticks(ys, 4)) {
    root.append(svg("line", { class: "axis", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    root.append(text(left - 6, y(value) + 4, number(value), "end"));
  }
  for (const value of xTicks ?? ticks(xs, 6)) root.append(text(x(value), height - bottom + 15, number(value), "middle"));
  if (xLabel) root.append(text((left + width - right) / 2, height - 3, xLabel, "middle"));
  if (yLabel) root.append(text(4, 10, yLabel, "start"));
  return { root, x, y };
}

function text(x, y, content, anchor) {
  return svg("text", { x, y, "text-anchor": anchor }, content);
}

/** Round numbers between two bounds. */
function ticks([low, high], count) {
  const rough = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10);
  const values = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) values.push(Math.abs(value) < step * 1e-9 ? 0 : Number(value.toPrecision(12)));
  return values;
}

/** Histograms of several lists of numbers on the same bins. */
function histogram(groups, { label, bins = 30, integer = false, marks = {} }) {
  const all = groups.flatMap((group) => group.values);
  if (!all.length) return h("p", { class: "muted" }, "Nothing was recorded.");
  let [low, high] = bounds([...all, ...Object.values(marks)]);
  if (integer) [low, high] = [low - 0.5, high + 0.5];
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const count = integer ? Math.min(bins, Math.max(1, Math.round(high - low))) : bins;
  const size = (high - low) / count;
  const counted = groups.map(({ values }) => {
    const heights = new Array(count).fill(0);
    for (const value of values) heights[clamp(Math.floor((value - low) / size), 0, count - 1)] += 1;
    return heights;
  });
  const top = Math.max(1, ...counted.flat());
  const xTicks = integer ? ticks([Math.ceil(low), Math.floor(high)], 5).filter(Number.isInteger) : undefined;
  const figure = makeFigure({ xs: [low, high], ys: [0, top], label, xLabel: label, yLabel: "episodes", xTicks });
  counted.forEach((heights, index) => {
    const points = heights.flatMap((value, bin) => [[low + bin * size, value], [low + (bin + 1) * size, value]]);
    const path = [[low, 0], ...points, [high, 0]].map(([a, b], place) => `${place ? "L" : "M"}${figure.x(a).toFixed(1)} ${figure.y(b).toFixed(1)}`).join("");
    const shape = svg("path", { d: path, "fill-opacity": 0.14, "stroke-width": 1.5 });
    shape.style.stroke = shape.style.fill = groups[index].part.color;
    if (groups[index].part.dataset) shape.style.strokeDasharray = "5 3";
    figure.root.append(shape);
  });
  for (const [name, value] of Object.entries(marks)) {
    figure.root.append(svg("line", { class: "axis", x1: figure.x(value), x2: figure.x(value), y1: figure.y(0), y2: figure.y(top), "stroke-dasharray": "2 3" }));
    figure.root.append(text(figure.x(value), 11, name, "middle"));
  }
  return figure.root;
}

function bounds(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

function scoreTitle(name) {
  const words = name.replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
}

class DistributionsPage {
  constructor(app) {
    this.app = app;
    this.root = h("section", { class: "page scroll", "aria-label": "Distributions" });
  }

  async start() {
    const { app } = this;
    const parts = listParts(app);
    for (const [index, dataset] of app.datasets.entries()) dataset.episodes ??= await app.source.ask("episodes", { dataset: index });
    const values = (name) =>
      parts.map((part) => {
        const { columns } = app.datasets[part.dataset].episodes;
        return { part, values: columns[name].filter((value, row) => columns.split[row] === part.split && value !== null && typeof value !== "string") };
      });
    const grid = h(
      "div",
      { class: "columns" },
      card("Return", legend(parts), histogram(values("return"), { label: "return", marks: app.datasets[0].references })),
      card("Length", legend(parts), histogram(values("length"), { label: "length in steps", integer: true })),
      card("Success", this.#success(values("success"))),
      ...this.#scores(parts, values),
    );
    this.root.replaceChildren(grid);
    for (const [index] of app.datasets.entries()) this.#addDimensions(grid, index, parts);
  }

  /** Histograms of the scores that all datasets have. */
  #scores(parts, values) {
    const names = Object.keys(SCORE_LABELS).filter((name) => this.app.datasets.every((dataset) => name in dataset.episodes.columns));
    return names.map((name) => card(scoreTitle(name), legend(parts), histogram(values(name), { label: SCORE_LABELS[name] })));
  }

  /** Shares of solved episodes with Wilson's 95 % interval. */
  #success(groups) {
    const known = groups.filter(({ values }) => values.length);
    if (!known.length) return h("p", { class: "muted" }, "No success was recorded.");
    const height = 40 + known.length * 32;
    const figure = makeFigure({ height, left: 90, bottom: 22, xs: [0, 1], ys: [known.length, 0], yTicks: [], xTicks: [0, 0.25, 0.5, 0.75, 1], label: "share of solved episodes" });
    known.forEach(({ part, values }, row) => {
      const solved = values.filter(Boolean).length;
      const share = solved / values.length;
      const [low, high] = wilson(share, values.length);
      const y = figure.y(row + 0.5);
      const bar = svg("rect", { x: figure.x(0), y: y - 8, width: Math.max(0, figure.x(share) - figure.x(0)), height: 16, rx: 3, "fill-opacity": 0.75 });
      bar.style.fill = part.color;
      const line = svg("line", { x1: figure.x(low), x2: figure.x(high), y1: y, y2: y, "stroke-width": 1.5 });
      line.style.stroke = "var(--text)";
      figure.root.append(bar, line, text(84, y + 4, part.label, "end"));
      figure.root.append(svg("title", {}, `${part.label}: ${solved} of ${values.length} solved`));
    });
    return h("div", {}, figure.root, h("p", { class: "muted" }, "Share of solved episodes, with Wilson's 95 % interval."));
  }

  async #addDimensions(grid, index, parts) {
    const dataset = this.app.datasets[index];
    const wait = card("Dimensions", h("p", { class: "muted" }, "Reading transitions…"));
    wait.classList.add("wide");
    grid.append(wait);
    try {
      const answer = await this.app.source.ask("dimensions", { dataset: index });
      const title = this.app.datasets.length > 1 ? ` · ${"AB"[index]}: ${dataset.name} ${dataset.version}` : "";
      const own = parts.filter((part) => part.dataset === index && answer.splits[part.split]);
      const cards = answer.columns.map((column) => this.#dimensions(column + title, own, own.map((part) => answer.splits[part.split][column])));
      wait.replaceWith(...cards);
      cards.at(-1)?.append(h("p", { class: "muted" }, dimensionNote(answer)));
    } catch (error) {
      wait.replaceChildren(h("h2", {}, "Dimensions"), h("p", { class: "muted" }, error.message));
    }
  }

  #dimensions(title, parts, summaries) {
    const count = summaries[0].dead.length;
    const all = summaries.flatMap(({ percentiles }) => [...percentiles[0], ...percentiles[4]]).filter((value) => value !== null);
    const width = 1240;
    const figure = makeFigure({ width, height: 230, xs: [-0.6, count - 0.4], ys: bounds(all), label: `${title}: distribution of each dimension`, xLabel: "dimension" });
    const marks = { dead: 0, saturated: 0 };
    summaries.forEach((summary, index) => {
      const shift = ((index - (summaries.length - 1) / 2) * 0.8) / summaries.length;
      for (let dimension = 0; dimension < count; dimension += 1) this.#mark(figure, summary, dimension, dimension + shift, parts[index], count, marks);
    });
    const found = [marks.dead ? `${marks.dead} dead (×)` : null, marks.saturated ? `${marks.saturated} saturated (▲)` : null].filter(Boolean);
    const element = card(title, legend(parts), figure.root, h("p", { class: marks.dead + marks.saturated ? "warned" : "muted" }, found.join(", ") || "No dimension is dead or saturated."));
    element.classList.add("wide");
    return element;
  }

  #mark(figure, summary, dimension, place, part, count, marks) {
    const [first, tenth, median, ninetieth, last] = summary.percentiles.map((row) => row[dimension]);
    const width = Math.min(1, 20 / count);
    const x = figure.x(place);
    const group = svg("g", {}, svg("title", {}, `${part.label}, dimension ${dimension}: median ${number(median)}, 1 % to 99 % ${number(first)} to ${number(last)}`));
    const line = (low, high, thickness) => svg("line", { x1: x, x2: x, y1: figure.y(low), y2: figure.y(high), "stroke-width": thickness });
    group.append(line(first, last, 0.8 * width + 0.3), line(tenth, ninetieth, 3 * width + 0.6));
    const dot = svg("circle", { cx: x, cy: figure.y(median), r: 1.6 * width + 0.9 });
    dot.style.fill = part.color;
    group.append(dot);
    group.style.stroke = part.color;
    const y = figure.y(last) - 6;
    if (summary.dead[dimension]) {
      marks.dead += 1;
      group.append(svg("path", { class: "cross", d: `M${x - 3} ${y - 3}L${x + 3} ${y + 3}M${x - 3} ${y + 3}L${x + 3} ${y - 3}` }));
    } else if (summary.saturated[dimension]) {
      marks.saturated += 1;
      const triangle = svg("path", { d: `M${x} ${y - 4}L${x + 3.5} ${y + 2}L${x - 3.5} ${y + 2}Z` });
      triangle.style.fill = part.color;
      group.append(triangle);
    }
    figure.root.append(group);
  }
}

function dimensionNote(answer) {
  const share = `${Math.round(answer.saturated * 100)} %`;
  return (
    `From ${plural(answer.episodes_read, "episode")}. A dot is the median, the thick line the 10th to 90th and the thin line the 1st to 99th percentile; ` +
    `dead: never changes; saturated: at least ${share} of the values are equal to the smallest or the largest one.`
  );
}

/** Wilson's 95 % interval of a share. */
function wilson(share, count) {
  const z = 1.959963984540054;
  const middle = (share + z ** 2 / (2 * count)) / (1 + z ** 2 / count);
  const half = (z / (1 + z ** 2 / count)) * Math.sqrt((share * (1 - share)) / count + z ** 2 / (4 * count ** 2));
  return [middle - half, middle + half];
}

// --- coverage --------------------------------------------------------------------------------------------------------

class CoveragePage {
  constructor(app) {
    this.app = app;
    this.canvas = h("canvas", { class: "scatter", role: "img", "aria-label": "Transitions on two principal components" });
    this.key = h("select", { "aria-label": "Column", change: () => this.load() }, ...app.vectors().map((name) => h("option", { value: name }, name)));
    this.key.value = app.vectors().includes("observation") ? "observation" : (app.vectors()[0] ?? "");
    this.readout = h("p", { class: "muted" }, "Click a point to open its episode.");
    this.legend = h("div");
    const section = card("Coverage", h("p", {}, h("label", {}, "Column ", this.key)), this.readout, this.legend, this.canvas);
    section.style.maxWidth = "1400px";
    this.root = h("section", { class: "page scroll", "aria-label": "Coverage" }, section);
    this.canvas.addEventListener("pointermove", (event) => this.#hover(event));
    this.canvas.addEventListener("click", () => this.near && app.openEpisode(this.near.dataset, this.near.episode));
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  start() {
    return this.load();
  }

  async load() {
    this.readout.textContent = "Reading transitions…";
    try {
      this.answer = await this.app.source.ask("coverage", { key: this.key.value });
      const [first, second] = this.answer.fractions.map((value) => `${Math.round(value * 100)} %`);
      this.note = `Across: first principal component of the standardised column (${first} of the variance); up: the second (${second}). ${plural(this.answer.episodes_read, "episode")} read. Click a point to open its episode.`;
      this.readout.textContent = this.note;
      this.draw();
    } catch (error) {
      this.readout.textContent = error.message;
    }
  }

  draw() {
    if (!this.answer || !this.canvas.clientWidth) return;
    const ratio = devicePixelRatio || 1;
    const width = this.canvas.clientWidth;
    const height = Math.round(Math.min(width * 0.55, Math.max(300, innerHeight - 260)));
    this.canvas.style.height = `${height}px`;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    const [left, right] = bounds(this.answer.parts.flatMap((part) => part.x));
    const [low, high] = bounds(this.answer.parts.flatMap((part) => part.y));
    const toX = (value) => 10 + ((value - left) / (right - left || 1)) * (width - 20);
    const toY = (value) => height - 10 - ((value - low) / (high - low || 1)) * (height - 20);
    const parts = listParts(this.app);
    this.points = [];
    this.answer.parts.forEach((group) => {
      const part = parts.find((other) => other.dataset === group.dataset && other.split === group.split);
      context.fillStyle = color(part.index);
      context.strokeStyle = color(part.index);
      context.globalAlpha = 0.45;
      group.x.forEach((value, index) => {
        const point = { x: toX(value), y: toY(group.y[index]), episode: group.episode[index], ...part };
        this.points.push(point);
        drawMark(context, part.index, point.x, point.y);
      });
    });
    this.legend.replaceChildren(...[legend(parts)].filter(Boolean));
  }

  #hover(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let best = 144;
    this.near = null;
    for (const point of this.points ?? []) {
      const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (distance < best) [best, this.near] = [distance, point];
    }
    this.readout.textContent = this.near ? `${this.near.label}, episode ${this.near.episode}` : this.note;
  }
}

/** A mark whose form differs from split to split, as its colour does. */
function drawMark(context, index, x, y) {
  const size = 2.2;
  context.beginPath();
  if (index % 3 === 0) context.arc(x, y, size, 0, 2 * Math.PI);
  else if (index % 3 === 1) context.rect(x - size, y - size, 2 * size, 2 * size);
  else {
    context.moveTo(x, y - size * 1.3);
    context.lineTo(x + size * 1.3, y + size);
    context.lineTo(x - size * 1.3, y + size);
  }
  context.fill();
}

// --- checks and provenance -------------------------------------------------------------------------------------------

class ChecksPage {
  constructor(app) {
    this.app = app;
    this.root = h("section", { class: "page scroll", "aria-label": "Checks" });
  }

  async start() {
    const sections = this.app.datasets.map((dataset, index) => this.#dataset(dataset, index));
    this.root.replaceChildren(h("div", { class: "columns" }, ...sections));
  }

  #dataset(dataset, index) {
    const { certificate } = dataset;
    const rows = certificate
      ? [h("p", { class: certificate.ok ? "passed" : "failed" }, certificate.verdict), h("p", {}, certificate.text), ...certificate.notable.map((line) => h("p", { class: "muted" }, line))]
      : [h("p", { class: "muted" }, "None. Step the recorded actions again and compare: "), h("code", {}, `rlhive replay ${dataset.name}`)];
    const result = h("div");
    const run = async (isAuto) => {
      button.disabled = true;
      result.replaceChildren(h("p", { class: "muted" }, "Checking every file and row…"));
      try {
        const report = await this.app.source.ask("checks", { dataset: index });
        result.replaceChildren(this.#report(report));
        button.hidden = true;
      } catch (error) {
        result.replaceChildren(h("p", { class: "failed" }, error.message));
        button.disabled = isAuto;
      }
    };
    const button = h("button", { type: "button", class: "primary", click: () => run(false) }, "Run the checks");
    if (this.app.source.isFile) run(true);
    const title = `${dataset.name} ${dataset.version}`;
    const element = card(title, h("h3", {}, "Replay certificate"), ...rows, h("h3", { class: "gap" }, "Findings"), h("p", {}, button), result);
    if (this.app.datasets.length === 1) element.classList.add("wide");
    return element;
  }

  #report(report) {
    const order = ["failed", "warned", "passed", "skipped"];
    const checks = [...report.checks].sort((a, b) => order.indexOf(a.status) - order.indexOf(b.status));
    const rows = checks.map((check) => {
      const lines = check.findings.length ? [...check.findings] : [check.note || check.promise];
      if (check.count > check.findings.length) lines.push(`and ${check.count - check.findings.length} more`);
      return h("tr", {}, h("td", {}, check.name.replaceAll("_", " ")), h("td", { class: check.status }, check.status), h("td", {}, ...lines.map((line) => h("div", {}, line))));
    });
    return h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "check"), h("th", {}, "result"), h("th", {}, ""))), h("tbody", {}, ...rows));
  }
}

class ProvenancePage {
  constructor(app) {
    this.app = app;
    this.root = h("section", { class: "page scroll", "aria-label": "Provenance" });
  }

  async start() {
    const cards = await Promise.all(
      this.app.datasets.map(async (dataset, index) => {
        const answer = await this.app.source.ask("provenance", { dataset: index });
        return card(`${dataset.name} ${dataset.version}`, tree(answer));
      }),
    );
    this.root.replaceChildren(h("div", { class: "columns" }, ...cards));
  }
}

/** Nested values as lists of terms; long branches are folded. */
function tree(value) {
  if (value === null || typeof value !== "object") return document.createTextNode(value === null ? "–" : String(value));
  const entries = Object.entries(value);
  if (Array.isArray(value) && value.every((item) => item === null || typeof item !== "object")) return document.createTextNode(value.join(", ") || "–");
  const list = h("dl", { class: "tree" });
  for (const [name, item] of entries) {
    const isBranch = item !== null && typeof item === "object" && Object.keys(item).length > 0;
    const isFolded = isBranch && JSON.stringify(item).length > 400;
    const content = isFolded ? h("details", {}, h("summary", {}, plural(Object.keys(item).length, "entry").replace("entrys", "entries")), tree(item)) : tree(item);
    list.append(h("dt", {}, Array.isArray(value) ? String(Number(name) + 1) : name), h("dd", {}, content));
  }
  return entries.length ? list : document.createTextNode("–");
}

// --- the application -------------------------------------------------------------------------------------------------

const KEYS = [
  ["space", "play or pause"],
  ["← →", "one step back or on; with shift ten"],
  [", .", "one step back or on"],
  ["home end", "first or last step"],
  ["[ ]", "slower or faster"],
  ["k j  or  ↑ ↓", "previous or next episode of the list"],
  ["f", "flag the episode"],
  ["c", "compare: a second episode beside the first"],
  ["x", "in a comparison: the list fills the other side"],
  ["/", "filter"],
  ["1 … 5", "episodes, distributions, coverage, checks, provenance"],
  ["t", "light or dark"],
  ["?", "this help"],
];

class App {
  constructor(source) {
    this.source = source;
    this.clock = new Clock();
    this.pages = new Map();
    this.withTerms = false;
  }

  async start() {
    this.showTheme(this.storedTheme());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.showTheme(this.storedTheme()));
    byId("theme").addEventListener("click", () => this.switchTheme());
    byId("help").addEventListener("click", () => this.showHelp());
    document.addEventListener("keydown", (event) => this.onKey(event));
    const answer = await this.source.ask("datasets");
    this.datasets = answer.datasets;
    this.exported = answer.exported ?? null;
    this.#showTitle();
    this.classes = { Episodes: EpisodesPage, Distributions: DistributionsPage, Coverage: CoveragePage, Checks: ChecksPage, Provenance: ProvenancePage };
    byId("tabs").append(
      ...Object.keys(this.classes).map((name, index) =>
        h("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-selected": "false", title: `${name} (${index + 1})`, click: () => this.show(name) }, name),
      ),
    );
    await this.show("Episodes");
    document.documentElement.dataset.ready = "true";
  }

  #showTitle() {
    const parts = this.datasets.flatMap((dataset, index) => [
      ...(this.datasets.length > 1 ? [h("span", {}, `${"AB"[index]} `)] : []),
      dataset.name,
      h("span", {}, `${dataset.version}${dataset.operations.length ? ` · view: ${dataset.operations.join(" ")}` : ""} `),
    ]);
    byId("title").replaceChildren(...parts);
    document.title = `${this.datasets.map((dataset) => dataset.name).join(" beside ")} – RLHive`;
  }

  /** Columns of numbers that all datasets have. */
  vectors() {
    return this.datasets[0].vectors.filter((name) => this.datasets.every((dataset) => dataset.vectors.includes(name)));
  }

  async show(name) {
    for (const tab of byId("tabs").children) tab.setAttribute("aria-selected", String(tab.id === `tab-${name}`));
    let page = this.pages.get(name);
    const isNew = !page;
    if (isNew) {
      page = new this.classes[name](this);
      this.pages.set(name, page);
    }
    this.current = page;
    page.root.setAttribute("role", "tabpanel");
    if (name !== "Episodes") this.clock.pause();
    byId("pages").replaceChildren(page.root);
    if (!isNew) return page.list?.redraw();
    try {
      await page.start();
    } catch (error) {
      page.root.append(h("p", { class: "message error", role: "alert" }, error.message));
    }
  }

  async openEpisode(dataset, episode) {
    await this.show("Episodes");
    const page = this.pages.get("Episodes");
    if (this.datasets.length > 1) await page.focusSlot(dataset);
    await page.open(episode);
  }

  // --- theme and help ---

  storedTheme() {
    let stored = null;
    try {
      stored = localStorage.getItem("rlhive-theme");
    } catch {
      // a browser that keeps nothing
    }
    return stored ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  }

  switchTheme() {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("rlhive-theme", theme);
    } catch {
      // as above
    }
    this.showTheme(theme);
  }

  showTheme(theme) {
    document.documentElement.dataset.theme = theme;
    for (const player of this.pages?.get("Episodes")?.players ?? []) player.drawCharts();
    this.pages?.get("Coverage")?.draw();
    this.clock.seek(this.clock.time);
  }

  showHelp() {
    if (document.querySelector("dialog[open]")) return;
    const list = h("dl", {}, ...KEYS.flatMap(([key, meaning]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, meaning)]));
    const dialog = showDialog(h("div", {}, h("h2", {}, "Keyboard"), list, h("button", { type: "button", click: () => dialog.close() }, "Close")));
  }

  // --- keyboard ---

  onKey(event) {
    const isTyping = event.target.closest?.("input[type=text], select, dialog[open]");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    const action = this.#globalKey(event) ?? (this.current instanceof EpisodesPage ? this.#episodeKey(event) : null);
    if (!action) return;
    event.preventDefault();
    action();
  }

  #globalKey({ key }) {
    const page = Object.keys(this.classes ?? {})[Number(key) - 1];
    if (page) return () => this.show(page);
    if (key === "t") return () => this.switchTheme();
    if (key === "?") return () => this.showHelp();
    return null;
  }

  #episodeKey(event) {
    const { clock, current } = this;
    const player = current.players?.[current.focus];
    if (!player) return null;
    const move = (steps) => () => {
      if (clock.isPlaying) clock.pause();
      clock.seek((Math.round(clock.time / player.dt + 1e-6) + steps) * player.dt);
    };
    const steps = event.shiftKey ? 10 : 1;
    // A button that has the focus keeps the space bar, which presses it.
    if (event.key === " " && event.target.tagName === "BUTTON" && event.target.id !== "play") return null;
    const actions = {
      " ": () => clock.toggle(),
      ArrowRight: move(steps),
      ArrowLeft: move(-steps),
      ".": move(1),
      ",": move(-1),
      Home: () => clock.seek(0),
      End: () => clock.seek(clock.duration),
      "]": () => clock.changeSpeed(1),
      "[": () => clock.changeSpeed(-1),
      j: () => current.step(1),
      k: () => current.step(-1),
      ArrowDown: () => current.step(1),
      ArrowUp: () => current.step(-1),
      f: () => current.toggleFlag(),
      c: () => current.toggleCompare(),
      x: () => current.players.length > 1 && current.focusSlot(1 - current.focus),
      "/": () => current.input.focus(),
    };
    return actions[event.key] ?? null;
  }
}

const embedded = byId("rlhive-data");
new App(embedded ? new FileSource(JSON.parse(embedded.textContent)) : new ServerSource()).start().catch((error) => byId("pages").replaceChildren(h("p", { class: "message error", role: "alert" }, error.message)));
