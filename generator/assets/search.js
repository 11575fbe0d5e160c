// Search: a button in the header, and "/" or "s", open a dialog; Pagefind's index is fetched at the first query, in the pieces it needs.
// A word that no note has is replaced by the nearest one that some note has, and the page says so.
(() => {
  const root = new URL("../../", document.currentScript.src);
  const header = document.querySelector(".md-header__inner") || document.body;
  const make = (tag, more = {}, ...inside) => {
    const {role, ...rest} = more, made = Object.assign(document.createElement(tag), rest);
    if (role) made.setAttribute("role", role);
    made.append(...inside);
    return made;
  };
  const input = make("input", {type: "search", placeholder: "Title, author, tag, function, words", autocomplete: "off", spellcheck: false});
  input.setAttribute("aria-label", "Search the notes");
  const said = make("p", {className: "pn-search-said", role: "status"});
  const list = make("ol", {className: "pn-search-found"});
  const close = make("button", {type: "button", className: "pn-search-close", textContent: "Close"});
  const form = make("form", {method: "dialog", role: "search"}, input, close);
  const dialog = make("dialog", {className: "pn-search md-typeset"}, form, said, list);
  dialog.setAttribute("aria-label", "Search");
  const button = make("button", {type: "button", className: "pn-search-open"}, "Search");
  button.setAttribute("aria-keyshortcuts", "/ s");
  header.append(button);
  document.body.append(dialog);

  const SHOWN = 8;  // each is a file of its own
  let engine = null, words = null, latest = 0;
  const load = () => engine ||= import(new URL("pagefind/pagefind.js", root).href).then(async pagefind => {
    await pagefind.options({excerptLength: 24, baseUrl: root.pathname});
    return pagefind;
  });
  const known = () => words ||= fetch(new URL("pagefind/words.json", root)).then(answer => answer.json());

  // Edits between two words, a swap of neighbors counted as one; stops where there are more than `most`.
  const edits = (a, b, most) => {
    if (Math.abs(a.length - b.length) > most) return most + 1;
    let before = [], row = Array.from({length: b.length + 1}, (_, n) => n);
    for (let i = 1; i <= a.length; i++) {
      const next = [i];
      for (let j = 1; j <= b.length; j++) {
        next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] !== b[j - 1]));
        if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) next[j] = Math.min(next[j], before[j - 2] + 1);
      }
      if (Math.min(...next) > most) return most + 1;
      [before, row] = [row, next];
    }
    return row[b.length];
  };
  // Each word as it is or begins in the notes, else the nearest of theirs; nothing if there is none.
  const mend = async query => {
    const all = await known();
    const mended = query.toLowerCase().split(/\s+/).filter(Boolean).map(word => {
      if (!/^\p{L}{4,}$/u.test(word) || all.some(one => one.startsWith(word))) return word;
      let best = "", least = (word.length < 6 ? 1 : 2) + 1;
      for (const one of all) {
        const apart = edits(word, one, least - 1);
        if (apart < least) [best, least] = [one, apart];
      }
      return best;
    });
    return mended.every(Boolean) ? mended.join(" ") : "";
  };

  // An excerpt is text with <mark>; nothing else of it reaches the page.
  const marked = html => [...new DOMParser().parseFromString(html, "text/html").body.childNodes].map(node =>
    node.nodeName === "MARK" ? make("mark", {}, node.textContent) : node.textContent);
  const entry = ({url, meta, excerpt, sub_results: parts}) => {
    const link = make("a", {href: url}, meta.title || url);
    const inner = (parts || []).filter(part => part.url !== url && part.title !== meta.title).slice(0, 3)
      .map(part => make("li", {}, make("a", {href: part.url}, part.title.replace(/¶$/, ""))));
    const kind = make("span", {className: "pn-search-kind"}, [meta.kind, meta.year].filter(Boolean).join(", "));
    return make("li", {}, link, " ", kind, make("p", {}, ...marked(excerpt)), ...(inner.length ? [make("ul", {}, ...inner)] : []));
  };
  const search = async () => {
    const mine = ++latest, query = input.value.trim();
    if (!query) { list.replaceChildren(); said.textContent = ""; return; }
    try {
      const [pagefind, asked] = await Promise.all([load(), mend(query)]);
      const {results} = asked ? await pagefind.search(asked) : {results: []};
      const shown = await Promise.all(results.slice(0, SHOWN).map(one => one.data()));
      if (mine !== latest) return;
      const count = `${results.length} ${results.length === 1 ? "note" : "notes"}`;
      const more = results.length > SHOWN ? `, the best ${SHOWN} shown` : "";
      if (!results.length) said.textContent = `Nothing for “${query}”.`;
      else said.textContent = asked === query.toLowerCase() ? `${count}${more}.` : `Nothing for “${query}”. ${count} for “${asked}”${more}.`;
      list.replaceChildren(...shown.map(entry));
    } catch {
      if (mine === latest) said.textContent = "The search index cannot be loaded from here; a web server is needed.";
    }
  };

  let timer = 0;
  const open = () => { if (!dialog.open) { dialog.showModal(); input.select(); } };
  button.addEventListener("click", open);
  close.addEventListener("click", () => dialog.close());
  input.addEventListener("focus", load, {once: true});
  input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(search, 150); });
  form.addEventListener("submit", event => { event.preventDefault(); list.querySelector("a")?.click(); });
  dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", event => {
    if (event.key === "Escape") {  // a search field would take the first one to clear itself
      event.preventDefault();
      dialog.close();
    }
    const step = {ArrowDown: 1, ArrowUp: -1}[event.key];
    if (!step) return;
    const stops = [input, ...list.querySelectorAll("a")], at = stops.indexOf(document.activeElement);
    event.preventDefault();
    stops[Math.max(0, Math.min(stops.length - 1, at + step))].focus();
  });
  addEventListener("keydown", event => {
    const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (!typing && !event.ctrlKey && !event.metaKey && !event.altKey && (event.key === "/" || event.key === "s")) {
      event.preventDefault();
      open();
    }
  });
})();
