// Why a module does not run, by what the server sends. Without imports and exports this file is a
// module and a plain script, and runs where no module does.

const COPIED = "Was the whole folder copied?";

// A sentence about the first file that is wrong, of a module and all that it imports; "" for none.
globalThis.findUnserved = async (path, folder, seen = new Set()) => {
  if (seen.has(path)) return "";
  seen.add(path);
  const response = await fetch(new URL(path, folder), { cache: "no-cache" }).catch(() => null);
  if (!response) return `${path} cannot be fetched. Is the server still running?`;
  if (!response.ok) return `${path} is missing (${response.status}). ${COPIED}`;
  const type = response.headers.get("content-type");
  if (!/^(text|application)\/(x-)?(java|ecma)script\b/i.test(type)) {
    const page = type?.startsWith("text/html"); // which some hosts send for files that they lack
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
