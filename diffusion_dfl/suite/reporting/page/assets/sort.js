"use strict";
// Headings of the tables that are in the page sort them by the numbers of their cells, not the text.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const order = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  for (const [column, head] of heads.entries()) {
    head.querySelector("button").addEventListener("click", () => {
      const direction = report.turn(head);
      const key = (row) => {
        const cell = row.cells[column];
        if (column === 0) return cell.textContent.trim();
        return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
      };
      body.append(...(direction === 0 ? order : report.sorted(order, key, direction)));
    });
  }
}
