// The address is the state of the page: which view, and how it is sorted, filtered and cut.
let show = () => {};

export const onAddress = (callback) => { show = callback; };
export const params = () => new URLSearchParams(location.search);

export function go(path, focus = true) {
  if (path !== location.pathname + location.search) history.pushState(null, "", path);
  show(focus);
}

export function changed(values) {
  const query = params();
  for (const [key, value] of Object.entries(values)) {
    if (value === "" || value === null) query.delete(key); else query.set(key, value);
  }
  const words = query.toString();
  go(location.pathname + (words ? `?${words}` : ""), false);
}

// Addresses of earlier versions had the view behind a hash: #task/NAME/SOURCE.
export function fromHash() {
  if (location.hash.length < 2) return;
  const [view, name, source] = location.hash.slice(1).split("/");
  const query = source ? `?source=${source}` : "";
  history.replaceState(null, "", `/${view}${name ? `/${name}` : ""}${query}`);
}

export function current() {
  const [view, ...names] = location.pathname.split("/").slice(1);
  return { view: view || "overview", name: decodeURIComponent(names.join("/")) };
}

window.addEventListener("popstate", () => { fromHash(); show(true); });
document.addEventListener("click", (event) => {
  const anchor = event.target.closest && event.target.closest("a[href]");
  if (!anchor || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey) return;
  const href = anchor.getAttribute("href");
  if (!href.startsWith("/") || /^\/(reports|page|api|metrics)/.test(href)) return;
  event.preventDefault();
  go(href);
});
