"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const field = Object.fromEntries(data.fact_fields.map((name, place) => [name, place]));
  const measure = Object.fromEntries(data.measures.map((name, place) => [name, place]));
  const STEP = 50;
  const MOVING = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
  const seen = (text) => String(text).replace(MOVING, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
  const clip = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);
  const short = (id) => id.slice(0, 10);
  const number = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));

  function make(name, given, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(given || {})) node.setAttribute(key, value);
    node.append(...children.filter((child) => child !== null));
    return node;
  }
  const said = (text, most = 400) => make("bdi", {}, clip(seen(text), most));
  const commitLink = (place) => make("a", { href: "#commit-" + short(data.commits[place].id) }, make("code", {}, short(data.commits[place].id)));

  const facts = data.facts.map((row, place) => {
    const text = (number) => data.texts[number].join(row[field.subject]);
    const readers = {
      prompt: text,
      paraphrases: (numbers) => numbers.map(text),
      generation: (numbers) => numbers.map(text),
      neighbours: (pairs) => pairs.map(([number, ...answer]) => [text(number), ...answer]),
    };
    const get = (name) => {
      const value = field[name] < row.length ? row[field[name]] : data.fact_defaults[name];
      return name in readers ? readers[name](value) : value;
    };
    const points = get("points");
    const before = points.find((point) => point[0] === null);
    const after = points.filter((point) => point[0] !== null);
    const then = after.find((point) => point[0] === get("commit"));
    const now = after[after.length - 1];
    const value = (point, name) => (point ? point[1 + measure[name]] : null);
    const right = value(now, "rewrite_acc");
    const broke = get("broke");
    return {
      place, get, points, before, then, now, value, broke,
      answered: right === null || right === undefined ? null : right >= 1,
      text: [get("subject"), get("prompt"), get("target"), get("old") || ""].join("\n").toLowerCase(),
    };
  });

  const FACETS = {
    all: ["all", () => true],
    live: ["live", (fact) => fact.get("status") === "live"],
    failing: ["failing", (fact) => fact.get("status") === "live" && fact.answered === false],
    broken: ["no longer answered", (fact) => fact.get("status") === "live" && "prompt" in fact.broke],
    neighbours: ["neighbour wrong", (fact) => fact.get("status") === "live" && "neighbours" in fact.broke],
    replaced: ["replaced", (fact) => fact.get("status") === "replaced"],
    reverted: ["reverted", (fact) => fact.get("status") === "reverted"],
  };
  const search = document.getElementById("search");
  const facet = document.getElementById("facet");
  const body = document.querySelector("#rows tbody");
  const more = document.getElementById("more");
  const all = document.getElementById("all");
  let commit = null;
  let matching = [];
  let shown = 0;

  for (const [name, [text, test]] of Object.entries(FACETS)) {
    facet.append(make("option", { value: name }, `${text} (${facts.filter(test).length})`));
  }

  const probability = (point, fact) => {
    const loss = fact.value(point, "nll");
    return loss === null || loss === undefined ? "–" : Math.exp(-loss).toFixed(2);
  };
  const sign = (value) =>
    value === null || value === undefined
      ? make("span", {}, "–")
      : value >= 1
        ? make("span", { class: "sign good" }, "✓ yes")
        : value <= 0
          ? make("span", { class: "sign bad" }, "✗ no")
          : make("span", { class: "sign bad" }, `✗ ${number(value)}`);

  // what the model did not know before the commit is nothing that the commit did
  const spared = (fact) => {
    const [before, now] = [fact.before, fact.now].map((point) => fact.value(point, "neighbourhood_acc"));
    return now === 0 && before === 0 ? make("span", { class: "old" }, "no, as before") : sign(now);
  };

  function rowOf(fact) {
    const id = "fact-" + short(fact.get("id"));
    const gone = fact.get("status") !== "live";
    const button = make("button", { type: "button", class: "open", "aria-expanded": "false" }, said(fact.get("prompt"), 200));
    const old = fact.get("old");
    const row = make(
      "tr",
      { id, class: gone ? "gone" : "" },
      make("th", { scope: "row" }, button, " → ", said(fact.get("target"), 100), old ? make("span", { class: "old" }, " (was ", said(old, 100), ")") : null),
      make("td", { "data-name": "state" }, fact.get("status"), ...(fact.get("gone") === null ? [] : [" by ", commitLink(fact.get("gone"))])),
      make("td", { "data-name": "p(new)" }, `${probability(fact.before, fact)} → ${probability(fact.then, fact)} → ${probability(fact.now, fact)}`),
      make("td", { "data-name": "answered" }, sign(fact.value(fact.now, "rewrite_acc"))),
      make("td", { "data-name": "paraphrases" }, sign(fact.value(fact.now, "paraphrase_acc"))),
      make("td", { "data-name": "neighbours" }, spared(fact)),
      make("td", { "data-name": "commit" }, commitLink(fact.get("commit"))),
    );
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!open));
      if (open) row.nextElementSibling.remove();
      else row.after(make("tr", {}, make("td", { colspan: "7" }, detailOf(fact))));
    });
    return row;
  }

  function commandOf(line) {
    const button = make("button", { type: "button", class: "copy", "data-copy": line, "aria-label": "Copy: " + line }, "copy");
    return make("span", { class: "command" }, make("code", {}, line), button);
  }
  const quoted = (text) => "'" + text.replaceAll("'", "'\\''") + "'";

  function detailOf(fact) {
    const box = make("div", { class: "inside" });
    const asked = [
      ["Paraphrases", fact.get("paraphrases").map((text) => [text, fact.get("target")])],
      ["Neighbours, whose answer should stay", fact.get("neighbours").map(([text, answer = fact.get("old")]) => [text, answer])],
      ["Texts about the subject", fact.get("generation").map((text) => [text, null])],
    ];
    for (const [title, probes] of asked) {
      if (!probes.length) continue;
      box.append(make("h3", {}, title), make("ul", {}, ...probes.map(([text, answer]) => make("li", {}, said(text, 2000), ...(answer === null ? [] : [" → ", said(answer, 200)])))));
    }
    for (const [what, suspects] of Object.entries(fact.broke)) {
      const line = make("p", {}, make("span", { class: "sign bad" }, "✗ "), `${what}: wrong since `);
      const named = (place) => [commitLink(place), " ", said(clip(data.commits[place].message.split("\n")[0], 80))];
      const id = (place) => short(data.commits[suspects[place]].id);
      if (suspects.length === 1) line.append(...named(suspects[0]), ". Take that commit out: ", commandOf("memitvc revert " + id(0)));
      else line.append(`one of ${suspects.length} commits, `, ...named(suspects[0]), " to ", ...named(suspects[suspects.length - 1]), ". Measure between them: ", commandOf("memitvc eval " + id((suspects.length - 1) >> 1)));
      box.append(line);
    }
    if (fact.points.length) {
      const last = fact.points.length > 9 ? [...fact.points.slice(0, 2), ...fact.points.slice(-7)] : fact.points;
      const head = make("tr", {}, make("th", { scope: "col" }, "measure"), ...last.map(([at]) => make("th", { scope: "col" }, at === null ? "before" : commitLink(at))));
      const rows = data.measures
        .filter((name) => last.some(([, ...values]) => values[measure[name]] !== null))
        .map((name) => make("tr", {}, make("th", { scope: "row" }, name === "nll" ? "p(new), per token" : data.labels[name] || name), ...last.map((point) => make("td", {}, name === "nll" ? probability(point, fact) : number(fact.value(point, name))))));
      box.append(make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Measurements of " + clip(seen(fact.get("prompt")), 60) }, make("table", {}, make("caption", {}, last.length < fact.points.length ? "Measured (the first two and the newest seven times)" : "Measured"), make("thead", {}, head), make("tbody", {}, ...rows))));
    } else {
      box.append(make("p", {}, "It was not measured: ", commandOf("memitvc eval")));
    }
    if (fact.get("why")) {
      const why = Object.fromEntries(data.why_fields.map((name, place) => [name, fact.get("why")[place]]));
      box.append(make("p", {}, `Why: ${why.left === null ? "" : `${(100 * why.left).toFixed(0)} % of the asked change is left; `}loss of the search ${number(why.loss)}; share of its own column at its key ${(why.leverage || []).map(number).join(", ")}; that reaches the paraphrases ${why.agreement ? why.agreement.map(number).join(", ") : "–"} (by layer).`));
    }
    if (fact.get("status") === "live") {
      box.append(make("p", {}, "Take out this fact alone: ", commandOf(`memitvc revert ${short(data.commits[fact.get("commit")].id)}${data.commits[fact.get("commit")].solved ? " --resolve" : ""} --fact ${seen(fact.get("subject")) === fact.get("subject") ? quoted(fact.get("subject")) : short(fact.get("id"))}`)));
    }
    box.append(make("p", {}, "Fact ", make("code", {}, fact.get("id"))));
    return box;
  }

  function render(count) {
    const until = Math.min(matching.length, count);
    const part = document.createDocumentFragment();
    for (; shown < until; shown += 1) part.append(rowOf(matching[shown]));
    body.append(part);
    more.hidden = shown >= matching.length;
    more.textContent = `Show ${Math.min(STEP, matching.length - shown)} more of ${matching.length - shown}`;
  }

  function find() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const test = FACETS[facet.value][1];
    matching = facts.filter((fact) => (commit === null || fact.get("commit") === commit) && test(fact) && words.every((word) => fact.text.includes(word) || (word.length > 5 && fact.get("id").startsWith(word))));
    body.replaceChildren();
    shown = 0;
    render(STEP);
    all.hidden = commit === null;
    const of = commit === null ? "" : ` of commit ${short(data.commits[commit].id)}`;
    document.getElementById("found").textContent = `${matching.length} of ${facts.length} facts${of}`;
  }

  search.addEventListener("input", find);
  facet.addEventListener("change", find);
  more.addEventListener("click", () => render(shown + STEP));
  all.addEventListener("click", () => { commit = null; find(); });
  document.querySelector(".find").addEventListener("submit", (event) => event.preventDefault());

  function showFact(id) {
    const place = facts.findIndex((fact) => fact.get("id").startsWith(id));
    if (place < 0) return;
    if (!document.getElementById("fact-" + id)) {
      commit = null; search.value = ""; facet.value = "all"; find();
      render(matching.findIndex((fact) => fact.place === place) + 1);
    }
    const row = document.getElementById("fact-" + id);
    const button = row.querySelector("button.open");
    if (button.getAttribute("aria-expanded") === "false") button.click();
    button.focus();
    row.scrollIntoView({ block: "center" });
  }
  function follow() {
    const name = location.hash.slice(1);
    if (name.startsWith("fact-")) showFact(name.slice(5));
    const target = name.startsWith("commit-") && document.getElementById(name);
    if (target) { target.querySelector("details").open = true; target.querySelector("summary").focus(); }
  }
  window.addEventListener("hashchange", follow);

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-commit]");
    if (link) { commit = Number(link.dataset.commit); search.value = ""; facet.value = "all"; find(); }
    const again = event.target.closest("a[href^='#']");
    if (again && again.getAttribute("href") === location.hash) follow();
    const button = event.target.closest("button.copy");
    if (button) copy(button);
  });
  function copy(button) {
    const done = (text) => { button.textContent = text; setTimeout(() => { button.textContent = "copy"; }, 1500); };
    const selected = () => {
      getSelection().selectAllChildren(button.previousElementSibling);
      done(document.execCommand("copy") ? "copied" : "selected");
    };
    if (navigator.clipboard) navigator.clipboard.writeText(button.dataset.copy).then(() => done("copied"), selected);
    else selected();
  }

  const any = facts.some(FACETS.live[1]);
  facet.value = any ? "live" : "all";
  find();
  follow();
})();
