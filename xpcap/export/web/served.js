// Find out from the server's answers why a module does not run. Without imports and exports, this file
// is both a module and a plain script, so it runs even if modules do not.

const COPIED = "Was the whole folder copied?";

// The problem of the first wrong file among a module and its imports, as a sentence; "" for none.
globalThis.findUnserved = async (path, folder, seen = new Set()) => {
  if (seen.has(path)) return "";
  seen.add(path);
  const response = await fetch(new URL(path, folder), { cache: "no-cache" }).catch(() => null);
  if (!response) return `${path} cannot be fetched. Is the server still running?`;
  if (!response.ok) return `${path} is missing (${response.status}). ${COPIED}`;
  const type = response.headers.get("content-type");
  if (!/^(text|application)\/(x-)?(java|ecma)script\b/i.test(type)) {
    const page = type?.startsWith("text/html"); // some hosts send a page for missing files
    return (
      `${path} was served ${type ? `as ${type}` : "without a Content-Type"}, and browsers run` +
      ` modules only as JavaScript. ${page ? COPIED : "Let the server send it as text/javascript."}`
    );
  }
  for (const [, next] of (await response.text()).matchAll(/^[ie]\w+port[^;"]*"\.\/(.+)";$/gm)) {
    const why = await globalThis.findUnserved(next, folder, seen);
    if (why) return why;
  }
  return "";
};
