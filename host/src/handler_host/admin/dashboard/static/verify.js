// The result of the check of this deploy: a summary line, and its single checks below.

import { duration, element, setText, size } from "./format.js";

const RESULTS = { running: "is running", passed: "passed", failed: "failed", skipped: "skipped: this commit is verified already" };

export class Verify {
  constructor(box) {
    this.box = box;
    this.summary = box.querySelector("summary");
    this.checks = box.querySelector("ul");
    this.reportKey = "";
  }

  // `report` is null if the host does not check deploys.
  show(report) {
    this.box.hidden = !report;
    const key = JSON.stringify(report);
    if (!report || key === this.reportKey) return;
    this.reportKey = key;
    this.box.dataset.state = report.state;
    const cost = report.state === "passed" || report.state === "failed" ? ` in ${duration(report.seconds)}, ${size(report.host_bytes)} of the host's memory` : "";
    setText(this.summary, `Check of this deploy (${report.commit}): ${RESULTS[report.state] || report.state}${cost}`);
    this.checks.replaceChildren(
      ...report.checks.map((check) => element("li", { className: check.ok ? "" : "error" }, `${check.name}: ${check.text}`)),
    );
    if (report.state === "failed") this.box.open = true;
  }
}
