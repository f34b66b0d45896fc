// Tokens by consumer, as providers have reported them.

import { element } from "./format.js";

const KINDS = ["input", "cached", "output", "reasoning"];

export class Usage {
  constructor(section, table) {
    this.section = section;
    this.body = table.tBodies[0];
    this.key = "";
  }

  show(rows) {
    const key = JSON.stringify(rows);
    if (key === this.key) return;
    this.key = key;
    this.section.hidden = rows.length === 0;
    this.body.replaceChildren(...rows.map(line));
  }
}

function line(row) {
  const name = element("th", { scope: "row" }, row.consumer || "without a key");
  return element("tr", {}, name, ...KINDS.map((kind) => element("td", {}, row[kind].toLocaleString("en-US"))));
}
