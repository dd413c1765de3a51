"use strict";
// One run in a dialog: what it is, its numbers, its curve, configuration and environment.
(() => {
  const { data, element } = report;
  const dialog = document.getElementById("run");
  const title = document.getElementById("run-title");
  const body = document.getElementById("run-body");

  const pairs = (entries) => element("dl", { class: "pairs" }, ...entries
    .filter(([, value]) => value !== "" && value !== null)
    .map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, String(value)))));

  const block = (heading, text, missing) => [
    element("h3", {}, heading),
    text ? element("pre", { tabindex: "0", "aria-label": heading }, text) : element("p", { class: "notice" }, missing),
  ];

  const numbers = (run) => {
    const names = data.texts[run.columns].split("\n").filter(Boolean);
    const groups = new Map();
    names.forEach((name, index) => {
      const cut = name.indexOf(".");
      const group = cut < 0 ? "source" : name.slice(0, cut);
      if (!groups.has(group)) groups.set(group, []);
      const value = run.values[index];
      const text = typeof value === "number" ? report.number(value) : String(value ?? "–");
      groups.get(group).push([cut < 0 ? name : name.slice(cut + 1), text]);
    });
    return ["test", "validation", "timing", "resources", "source"].filter((group) => groups.has(group))
      .flatMap((group) => [element("h3", {}, group[0].toUpperCase() + group.slice(1)), pairs(groups.get(group))]);
  };

  const curve = (index) => {
    const cell = data.cells.find((one) => one.runs.includes(index));
    if (!cell) return [];
    const lines = cell.curves.map((one) => {
      const y = one.validation_score[cell.runs.indexOf(index)];
      return { name: one.stage, x: one.epochs, y, low: y.map(() => null), high: y.map(() => null) };
    }).filter((line) => line.y.some((value) => value !== null));
    if (!lines.length) return [];
    const host = element("div");
    report.chart(host, { title: "Validation score of this run", x_title: "epoch", y_title: "validation score", ticks: [], lines });
    return [element("h3", {}, "Learning curve"), host];
  };

  report.open = (run) => {
    title.textContent = data.texts[run.title] + (run.seed === null ? "" : `, seed ${run.seed}`);
    const state = run.detail ? `${run.state}: ${run.detail}` : run.state;
    const command = data.texts[run.command];
    body.replaceChildren(
      element("p", { class: "note" }, element("code", {}, run.path)),
      pairs([["State", state], ["Standing", run.standing ? data.standings[run.standing] : ""],
        ["Task", run.task], ["Scale", run.scale], ["Data", run.source]]),
      ...(command ? block("Command", `${command} seed=${run.seed}`, "") : []),
      ...numbers(run),
      ...curve(run.index),
      ...block("Configuration", data.texts[run.config], "There is no config.yaml."),
      ...block("Environment", data.texts[run.environment], "There is no env.json."),
      element("p", { class: "note" }, "Folders of the machine the run was made on are left out."),
    );
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    title.focus();
  };
  dialog.addEventListener("close", () => {
    if (location.hash.startsWith("#run/")) history.replaceState(null, "", "#runs");
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
})();
