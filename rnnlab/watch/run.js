// The page of a run: its head, its progress, and a chart for each panel.

const run = {
  show(answer) {
    const {status, progress, head} = answer;
    $("status").replaceChildren(chip(status.word), " ", el("span", {className: "quiet"}, status.text));
    if (head) this.head(head);
    this.progress(progress, status.word, answer);
    $("controls").hidden = !board.curves.size;
    const trouble = answer.problems.join("; ");
    $("trouble").textContent = trouble;
    $("trouble").hidden = !trouble;
    for (const chart of board.charts) chart.draw();
  },

  progress({step, steps, rate, seconds, left}, word, {more, share}) {
    $("progress").hidden = !steps;
    $("bar").value = steps ? step / steps : 0;
    const going = ["running", "quiet", "starting"].includes(word);
    const parts = [`step ${(step || 0).toLocaleString("en")} of ${(steps || 0).toLocaleString("en")} (${Math.floor(100 * (step || 0) / (steps || 1))} %)`];
    if (rate) parts.push(`${written(Number(rate.toPrecision(3)))} steps/s`);
    if (seconds) parts.push(`${duration(seconds)} of training`);
    if (going && left !== null && step < steps) parts.push(`${duration(left)} left`);
    if (more) parts.push(`reading: ${Math.floor(100 * share)} %`);
    $("numbers").replaceChildren(...parts.map(text => el("span", {}, text)));
    document.title = `${steps ? `${Math.floor(100 * step / steps)} % ` : ""}${$("title").textContent}`;
  },

  head(head) {
    board.head = head;
    $("title").textContent = head.title;
    $("subtitle").textContent = head.subtitle;
    $("folder").textContent = head.folder;
    const main = $("main"), sections = new Map();
    const places = new Map(board.charts.map(chart => [`${chart.panel.section}/${chart.panel.title}`, chart]));
    const drawn = head.panels.filter(panel => panel.map || panel.curves.length), others = head.panels.filter(panel => !drawn.includes(panel));
    board.charts = drawn.map(panel => {
      const old = places.get(`${panel.section}/${panel.title}`), Kind = panel.map ? HeatChart : LineChart;
      const chart = old instanceof Kind ? old : new Kind(panel, board);
      chart.set(panel);
      if (!sections.has(panel.section)) sections.set(panel.section, []);
      sections.get(panel.section).push(chart.node);
      return chart;
    });
    const open = [...main.querySelectorAll("details")].filter(each => each.open).map(each => each.id), focus = document.activeElement;
    const rows = pairs => el("dl", {}, ...pairs.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
    const folded = (id, title, node) => el("details", {id, open: open.includes(id)}, el("summary", {}, title), node);
    main.replaceChildren(
      rows(head.config),
      ...(head.summary.length ? [folded("summary", "Summary", rows(head.summary))] : []),
      ...(head.text ? [folded("config", "All fields of the config", el("pre", {}, head.text))] : []),
      ...[...sections].map(([title, nodes]) => el("section", {}, el("h2", {}, title), el("div", {className: "grid"}, ...nodes))),
      ...(others.length ? [el("section", {}, el("h2", {}, "Not shown"), rows(others.map(panel => [panel.title, panel.hint])))] : []),
    );
    if (focus && main.contains(focus)) focus.focus({preventScroll: true});
  },
};
