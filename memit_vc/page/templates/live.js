(() => {
  const live = document.getElementById("live");
  const done = document.getElementById("done");
  const asked = document.getElementById("asked");
  const MOVING = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
  const seen = (text) => text.replace(MOVING, (c) => (c === "\n" ? "\\n" : "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0")));
  const RUNS = /^memitvc (undo$|redo$|revert (?!.*--resolve)|checkout )/;

  function make(name, given, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(given)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  async function post(name, body) {
    const answer = await fetch(name, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    const text = await answer.text();
    let found;
    try { found = JSON.parse(text); } catch { throw new Error(text.trim() || "no answer"); }
    if (!answer.ok) throw new Error([found.error.message, found.error.hint].filter(Boolean).join(" "));
    return found;
  }

  // a button beside each command that the server may run
  function offer(root) {
    for (const shown of root.querySelectorAll(".command")) {
      const line = shown.querySelector("code").textContent;
      if (!RUNS.test(line) || shown.querySelector(".run")) continue;
      shown.append(make("button", { type: "button", class: "run", "aria-label": "Run: " + line }, "run"));
    }
  }
  new MutationObserver(() => offer(document)).observe(document.body, { childList: true, subtree: true });
  offer(document);
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button.run");
    if (!button) return;
    const line = button.parentElement.querySelector("code").textContent;
    button.disabled = true;
    done.textContent = line + " …";
    try {
      const made = await post("run", { command: line, seen: Number(live.dataset.operation) });
      sessionStorage.setItem("done", line + ": " + made.done);
      location.reload();
    } catch (error) {
      done.textContent = line + ": " + error.message;
      live.scrollIntoView();
    } finally {
      button.disabled = false;
    }
  });
  done.textContent = sessionStorage.getItem("done") || "";
  sessionStorage.removeItem("done");

  const value = (id) => document.getElementById(id).value;
  const percent = (p) => (100 * p).toFixed(p < 0.1 ? 1 : 0) + " %";
  const token = (text) => make("code", {}, make("bdi", {}, seen(text.replace(/^ | $/g, "␣"))));
  const list = (choices) => choices.flatMap(([text, p], place) => [...(place ? [" · "] : []), token(text), " " + percent(p)]);
  function cells(choices) {
    if (!choices) return [make("td", {}, "(ended)"), make("td", {}, "")];
    return [make("td", {}, token(choices[0][0])), make("td", { class: "best" }, ...list(choices))];
  }
  function show(found, prompt) {
    const [left, right] = found.sides;
    const name = (side) => `${side.revision} (${side.commit.slice(0, 10)})`;
    const text = (side) => make("div", {}, make("h3", {}, seen(name(side))), make("pre", {}, make("bdi", {}, side.text)));
    const rows = [];
    for (let place = 0; place < Math.max(left.best.length, right.best.length); place += 1) {
      const row = make("tr", {}, make("th", { scope: "row" }, String(place + 1)), ...cells(left.best[place]), ...cells(right.best[place]));
      if (place === found.differ) {
        row.className = "differ";
        row.firstChild.append(" ← they differ from here");
      }
      rows.push(row);
    }
    const column = (text) => make("th", { scope: "col" }, text);
    const head = make("tr", {}, column("token"), column(seen(left.revision)), column("best five"), column(seen(right.revision)), column("best five"));
    const table = make("table", {}, make("caption", {}, "Token by token, ␣ is a space"), make("thead", {}, head), make("tbody", {}, ...rows));
    document.getElementById("answer").replaceChildren(
      make("div", { class: "answers" }, text(left), text(right)),
      make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Token by token" }, table),
    );
    asked.textContent = found.differ === null ? `Both say the same behind “${seen(prompt)}”.` : `They differ from token ${found.differ + 1} on.`;
  }
  function showBlame(found) {
    const rows = found.facts.map((entry) => make("tr", {},
      make("td", {}, percent(entry.influence)),
      make("td", {}, make("a", { href: "#commit-" + entry.commit.slice(0, 10) }, make("code", {}, entry.commit.slice(0, 10)))),
      make("td", {}, ...entry.facts.slice(0, 3).flatMap((fact) => [make("bdi", {}, seen(`${fact.prompt} → ${fact.target}`)), " "])),
      make("td", {}, make("span", { class: "command" }, make("code", {}, "memitvc revert " + entry.commit.slice(0, 10)))),
    ));
    const heads = ["moves", "commit", "fact", "take its commit out"].map((text) => make("th", { scope: "col" }, text));
    const where = found.subject === null ? "the end of the prompt" : `the end of “${seen(found.subject)}”`;
    const table = make("table", {}, make("caption", {}, `How far each fact moves the output at ${where}`), make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
    document.getElementById("blamed").replaceChildren(make("h3", {}, "Blame"), make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Blame" }, table));
    asked.textContent = "";
  }
  async function busy(work) {
    const buttons = document.querySelectorAll("#ask button");
    buttons.forEach((button) => { button.disabled = true; });
    asked.textContent = "Asking the model …";
    try { await work(); } catch (error) { asked.textContent = error.message; }
    buttons.forEach((button) => { button.disabled = false; });
  }
  document.getElementById("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const prompt = value("prompt");
    busy(async () => show(await post("ask", { prompt, left: value("left"), right: value("right"), tokens: Number(value("tokens")), chat: document.getElementById("chat").checked }), prompt));
  });
  document.getElementById("blame").addEventListener("click", () => {
    busy(async () => showBlame(await post("blame", { prompt: value("prompt"), revision: value("left") })));
  });
})();
