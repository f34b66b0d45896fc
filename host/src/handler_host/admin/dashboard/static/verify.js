// What the check of this deploy has found: one line, and what it has looked at below it.

import { duration, element, put, size } from "./format.js";

const SAID = { running: "is running", passed: "passed", failed: "failed", skipped: "not repeated: this commit was verified before" };

export class Verify {
  constructor(box) {
    this.box = box;
    this.summary = box.querySelector("summary");
    this.checks = box.querySelector("ul");
    this.known = "";
  }

  // `report` is null where no deploy is checked.
  show(report) {
    this.box.hidden = !report;
    const key = JSON.stringify(report);
    if (!report || key === this.known) return;
    this.known = key;
    this.box.dataset.state = report.state;
    const cost = report.state === "passed" || report.state === "failed" ? ` in ${duration(report.seconds)}, ${size(report.host_bytes)} of the host's memory` : "";
    put(this.summary, `Check of this deploy (${report.commit}): ${SAID[report.state] || report.state}${cost}`);
    this.checks.replaceChildren(
      ...report.checks.map((one) => element("li", { className: one.ok ? "" : "error" }, `${one.name}: ${one.text}`)),
    );
    if (report.state === "failed") this.box.open = true;
  }
}
