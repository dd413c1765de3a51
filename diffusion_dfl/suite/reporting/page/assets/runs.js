"use strict";
// The list of runs, and the addresses #run/PATH (one run) and #runs/PREFIX (those of a directory).
(() => {
  const { data, element } = report;
  const PAGE = 25;
  const runs = data.runs.map((row, index) => Object.fromEntries([["index", index], ...data.columns.map((name, place) => [name, row[place]])]));
  const byPath = new Map(runs.map((run) => [run.path, run]));
  const titleOf = (run) => data.texts[run.title];
  const standingOf = (run) => (run.standing ? data.standings[run.standing] : "");
  const tableOf = (run) => [run.task, run.scale, run.source].filter(Boolean).join(", ");
  const COLUMNS = [
    ["Run", titleOf], ["Seed", (run) => run.seed], ["Table", tableOf], ["State", (run) => run.state],
    ["Standing", standingOf], ["Test task", (run) => run.value], ["Validation", (run) => run.validation],
    ["Seconds", (run) => run.seconds],
  ];
  const form = document.getElementById("run-choice");
  const list = document.getElementById("run-list");
  const count = document.getElementById("run-count");
  const [before, after, page] = ["run-before", "run-after", "run-page"].map((id) => document.getElementById(id));
  let at = 0, sort = { key: null, direction: 0 };

  const chosen = () => {
    const { text, table, state, standing } = form.elements;
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = runs.filter((run) => {
      const told = `${run.path} ${titleOf(run)} ${run.detail}`.toLowerCase();
      return words.every((word) => told.includes(word))
        && (!table.value || tableOf(run) === table.value)
        && (!state.value || run.state === state.value)
        && (!standing.value || run.standing === standing.value);
    });
    return sort.direction ? report.sorted(found, sort.key, sort.direction) : found;
  };

  const row = (run) => element("tr", {},
    element("th", { scope: "row" }, element("a", { href: `#run/${encodeURI(run.path)}` }, `${titleOf(run)}`),
      element("small", {}, run.path)),
    element("td", { class: "number" }, run.seed === null ? "–" : String(run.seed)),
    element("td", { class: "whole" }, tableOf(run)),
    element("td", { class: run.state === "finished" ? "" : "worse" }, run.state, ...(run.detail ? [element("small", {}, run.detail)] : [])),
    element("td", {}, standingOf(run)),
    ...[run.value, run.validation, run.seconds].map((value) => element("td", { class: "number" }, report.number(value))));

  const draw = () => {
    const found = chosen();
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    at = Math.min(at, pages - 1);
    list.tBodies[0].replaceChildren(...found.slice(at * PAGE, (at + 1) * PAGE).map(row));
    count.textContent = `${found.length} of ${runs.length} runs`;
    page.textContent = `page ${at + 1} of ${pages}`;
    before.disabled = at === 0;
    after.disabled = at === pages - 1;
  };

  for (const [place, [title, key]] of COLUMNS.entries()) {
    const button = element("button", { type: "button", class: "sort" }, title);
    const isNumber = place === 1 || place >= 5;
    const head = element("th", { scope: "col", "aria-sort": "none", class: isNumber ? "number" : null }, button);
    button.addEventListener("click", () => { sort = { key, direction: report.turn(head) }; at = 0; draw(); });
    list.tHead.rows[0].append(head);
  }
  const offer = (name, pairs) => form.elements[name].append(...pairs.map(([value, title]) => element("option", { value }, title)));
  const distinct = (key) => [...new Set(runs.map(key))].filter(Boolean).sort();
  offer("table", distinct(tableOf).map((one) => [one, one]));
  offer("state", distinct((run) => run.state).map((one) => [one, one]));
  offer("standing", distinct((run) => run.standing).map((one) => [one, data.standings[one]]));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { at = 0; draw(); });
  before.addEventListener("click", () => { at -= 1; draw(); });
  after.addEventListener("click", () => { at += 1; draw(); });

  const route = () => {
    let address = location.hash.slice(1);
    try { address = decodeURIComponent(address); } catch { /* a hand-made address may be no URI */ }
    if (address.startsWith("run/")) {
      const run = byPath.get(address.slice(4));
      if (run) report.open(run);
      else count.textContent = `There is no run ${address.slice(4)}`;
    } else if (address.startsWith("runs/")) {
      form.reset();
      form.elements.text.value = `${address.slice(5)}/`;
      at = 0;
      draw();
      document.getElementById("runs-title").scrollIntoView();
      form.elements.text.focus({ preventScroll: true });
    }
  };
  addEventListener("hashchange", route);
  draw();
  route();
})();
