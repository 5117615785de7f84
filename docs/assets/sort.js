// Tables of more than eight rows are sorted by a click on a heading, and the other way round by a second one.
"use strict"

// What a cell is sorted by: a number, a text, or null where it is empty. A half-life is a rate: "↓2.7" is -1/2.7, "↑97" is
// 1/97 and "∞" is 0, so that what vanishes fastest comes first.
function valueOf(cell) {
  const text = cell.textContent.trim().replaceAll(",", "").replace("−", "-")
  if (text === "" || text === "–") return null
  if (text === "∞") return 0
  if (text[0] === "↓" || text[0] === "↑") return (text[0] === "↓" ? -1 : 1) / Number(text.slice(1))
  return /^[+-]?\.?\d/.test(text) ? parseFloat(text) : text.toLowerCase()
}

function compare(a, b, direction) {
  if (a === null || b === null) return (a === null) - (b === null)
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1
  return direction * (a < b ? -1 : a > b ? 1 : 0)
}

function sortBy(table, column, direction) {
  const rows = [...table.tBodies[0].rows].map(row => [valueOf(row.cells[column]), row])
  rows.sort(([a], [b]) => compare(a, b, direction))
  table.tBodies[0].append(...rows.map(([, row]) => row))
  for (const heading of table.tHead.rows[0].cells) heading.setAttribute("aria-sort", "none")
  table.tHead.rows[0].cells[column].setAttribute("aria-sort", direction > 0 ? "ascending" : "descending")
}

for (const table of document.querySelectorAll(".md-content table:not([class])")) {
  if (!table.tHead || table.tBodies[0].rows.length <= 8) continue
  for (const [column, heading] of [...table.tHead.rows[0].cells].entries()) {
    heading.setAttribute("aria-sort", "none")
    heading.title = "Sort by this column"
    heading.addEventListener("click", () => {
      sortBy(table, column, heading.getAttribute("aria-sort") === "ascending" ? -1 : 1)
    })
  }
}
