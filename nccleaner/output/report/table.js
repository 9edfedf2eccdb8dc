"use strict";

// Tables that are marked sort by the buttons in their headings; one is filtered by its form.
for (const table of document.querySelectorAll("table.sortable")) {
  const buttons = [...table.querySelectorAll("thead button")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const heading = button.closest("th");
      const rising = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of buttons) other.closest("th").removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
      sortRows(table.tBodies[0], heading.cellIndex, rising);
    });
  }
}

function sortRows(body, column, rising) {
  const keyOf = (row) => {
    const cell = row.cells[column];
    return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
  };
  const compare = (a, b) =>
    typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
  const rows = [...body.rows].map((row) => [keyOf(row), row]);
  rows.sort(([a], [b]) => (rising ? compare(a, b) : compare(b, a)));
  body.append(...rows.map(([, row]) => row));
}

const form = document.getElementById("filter");
const body = document.getElementById("pairs").tBodies[0];
const shown = document.getElementById("shown");
const folded = new Map([...body.rows].map((row) => [row, row.textContent.toLowerCase()]));

function filterRows() {
  const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
  const decision = form.elements.decision.value;
  const least = Number(form.elements.least.value || 0);
  const most = Number(form.elements.most.value || 1);
  let count = 0;
  for (const [row, text] of folded) {
    const fits =
      words.every((word) => text.includes(word)) &&
      (!decision || row.dataset.decision === decision) &&
      Number(row.dataset.probability) >= least &&
      Number(row.dataset.probability) <= most;
    row.hidden = !fits;
    count += fits;
  }
  shown.textContent = `${count.toLocaleString("en")} of ${folded.size.toLocaleString("en")} pairs`;
}

form.addEventListener("input", filterRows);
form.addEventListener("submit", (event) => event.preventDefault());
document.getElementById("all").addEventListener("click", () => {
  form.reset();
  filterRows();
});
form.hidden = false;
filterRows();
