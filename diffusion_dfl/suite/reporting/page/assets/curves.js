"use strict";
// The form above the learning curves: what is drawn.
(() => {
  const form = document.getElementById("curve-choice");
  if (!form) return;
  const { cells, quantities } = report.data;
  const chosen = {
    run: (cell) => cell.standing === "run",
    twin: (cell) => cell.standing === "run" || cell.standing === "twin",
    all: () => true,
  };
  const titled = (cell) => cell.title + (cell.standing === "stale" ? " (older preset)" : "");
  const fill = (select, pairs) => {
    const before = select.value;
    select.replaceChildren(...pairs.map(([value, title]) => report.element("option", { value }, title)));
    if (pairs.some(([value]) => value === before)) select.value = before;
  };
  const both = (a, b, sign) => a.map((value, i) => (value === null || b[i] === null ? null : value + sign * b[i]));

  // Whether a linear axis would show the small values as one line.
  const isWide = (lines) => {
    const values = lines.flatMap((line) => line.y).filter((value) => value !== null);
    return values.length > 0 && Math.min(...values) > 0 && Math.max(...values) > 30 * Math.min(...values);
  };

  const draw = (anew) => {
    const { table, group, stage, quantity, log } = form.elements;
    const found = cells.filter((cell) => cell.table === table.value && chosen[group.value](cell));
    fill(stage, [...new Set(found.flatMap((cell) => cell.curves.map((curve) => curve.stage)))].map((one) => [one, one]));
    const curves = found.flatMap((cell) => cell.curves.filter((curve) => curve.stage === stage.value).map((curve) => ({ cell, curve })));
    fill(quantity, Object.entries(quantities).filter(([name]) => curves.some(({ curve }) => curve.bands[name])));
    const name = quantity.value;
    const drawn = curves.filter(({ curve }) => curve.bands[name]);
    const isTrained = drawn.some(({ cell }) => cell.trained);
    const lines = drawn.map(({ cell, curve }, place) => {
      const [y, error, count] = curve.bands[name];
      const n = Array.isArray(count) ? count : y.map(() => count);
      // Two-stage fits run for many more epochs and would squeeze the others into a corner.
      const off = (isTrained && !cell.trained) || place >= 12;
      return { name: titled(cell), x: curve.epochs, y, low: both(y, error, -1), high: both(y, error, 1), n, off };
    });
    if (anew) log.checked = isWide(lines.filter((line) => !line.off));
    const title = `${quantities[name] ?? "Nothing"}, ${table.selectedOptions[0].textContent}`;
    const spec = { title, x_title: "epoch", y_title: quantities[name] ?? "", ticks: [], lines };
    report.chart(document.getElementById("curve-plot"), spec, log.checked);
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => draw(event.target.name !== "log"));
  draw(true);
})();
