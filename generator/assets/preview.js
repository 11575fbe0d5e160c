// Shows what a link leads to before it is followed: a note's summary and verdicts, a citation's entry in the reference list.
// By mouse it opens on hover, from the keyboard on focus, on a touch screen at the first tap (the second follows the link).
(() => {
  const box = document.createElement("div");
  box.id = "pn-preview";
  box.className = "pn-preview md-typeset";
  box.setAttribute("role", "tooltip");
  box.hidden = true;
  document.body.append(box);
  const seen = new Map();
  let shown = null, timer = 0;

  const hide = () => {
    clearTimeout(timer);
    shown?.removeAttribute("aria-describedby");
    shown = null;
    box.hidden = true;
  };
  const place = link => {
    const edge = 8, at = link.getClientRects()[0] || link.getBoundingClientRect(), room = document.documentElement.clientWidth;
    box.style.maxWidth = `${Math.min(420, room - 2 * edge)}px`;
    box.hidden = false;
    const left = Math.max(edge, Math.min(at.left, room - box.offsetWidth - edge));
    const above = at.bottom + box.offsetHeight + edge > innerHeight && at.top > box.offsetHeight + edge;
    box.style.left = `${left + scrollX}px`;
    box.style.top = `${(above ? at.top - box.offsetHeight - 4 : at.bottom + 4) + scrollY}px`;
  };
  const clone = nodes => {
    const parts = nodes.filter(Boolean).map(node => document.importNode(node, true));
    parts.forEach(part => [part, ...part.querySelectorAll("*")].forEach(one => one.removeAttribute("id")));
    return parts;
  };
  const entry = async link => {
    const href = link.getAttribute("href");
    if (href.startsWith("#")) return clone([...document.getElementById(href.slice(1))?.childNodes ?? []].map(node =>
      node.nodeType === 3 ? Object.assign(document.createElement("span"), {textContent: node.data}) : node));
    const address = new URL(href, location.href).href.split("#")[0];
    if (!seen.has(address)) seen.set(address, fetch(address).then(answer => answer.ok ? answer.text() : "").catch(() => ""));
    const page = new DOMParser().parseFromString(await seen.get(address), "text/html");
    const title = document.createElement("strong");
    title.textContent = page.querySelector("h1")?.firstChild?.data?.trim() ?? "";
    const summary = page.querySelector(".pn-summary");
    return summary ? clone([title, summary, page.querySelector(".pn-counts")]) : [];
  };
  const show = async link => {
    if (shown === link) return;
    hide();
    shown = link;
    const parts = await entry(link);
    if (shown !== link) return;
    if (!parts.length) return hide();
    box.replaceChildren(...parts);
    link.setAttribute("aria-describedby", box.id);
    place(link);
  };

  document.querySelectorAll("article a.pn-cite, article a.pn-note, article .pn-near a").forEach(link => {
    let pointer = "";
    link.removeAttribute("title");
    link.querySelector("title")?.remove();
    link.addEventListener("pointerdown", event => pointer = event.pointerType);
    link.addEventListener("pointerenter", event => {
      if (event.pointerType !== "mouse") return;
      timer = setTimeout(show, 250, link);
    });
    link.addEventListener("pointerleave", event => event.pointerType === "mouse" && setTimeout(() => {
      if (!box.matches(":hover") && document.activeElement !== link) hide();
    }, 120));
    link.addEventListener("focus", () => link.matches(":focus-visible") && show(link));
    link.addEventListener("blur", () => !box.matches(":hover") && hide());
    link.addEventListener("click", event => {
      if (pointer !== "touch" || shown === link) return;
      event.preventDefault();
      show(link);
    });
  });
  box.addEventListener("pointerleave", event => event.pointerType === "mouse" && hide());
  document.addEventListener("keydown", event => event.key === "Escape" && hide());
  document.addEventListener("pointerdown", event => {
    if (shown && !box.contains(event.target) && !shown.contains(event.target)) hide();
  });

  // The theme puts a copy button into each block of code as a landmark; landmarks need names of their own.
  let blocks = 0;
  const name = () => document.querySelectorAll("nav.md-code__nav:not([aria-label])").forEach(one =>
    one.setAttribute("aria-label", `Code block ${++blocks}`));
  name();
  new MutationObserver(name).observe(document.querySelector("article") ?? document.body, {childList: true, subtree: true});
})();
