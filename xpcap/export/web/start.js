// Check that the browser has what the page needs, before anything is loaded. This is a plain script,
// since browsers do not load modules from file://.

(() => {
  // A function that returns a vector of 128 bits: i32.const 0, i8x16.splat
  const simd = Uint8Array.of(
    0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0,
    10, 8, 1, 6, 0, 65, 0, 253, 15, 11,
  );

  function obstacle() {
    if (location.protocol === "file:") {
      return (
        "Browsers do not let a page that is opened as a file load anything. Serve its folder instead:" +
        " in a terminal, in this folder, type\n\npython -m http.server\n\nand open" +
        " http://localhost:8000"
      );
    }
    if (self.origin === "null") {
      return (
        "This page is in a sandboxed frame, in which browsers do not load its files. Add" +
        " allow-same-origin to the frame's sandbox attribute, or leave the attribute out."
      );
    }
    const newer = "A current Chrome, Edge, Firefox or Safari shows it.";
    if (typeof WebAssembly !== "object" || !WebAssembly.validate(simd)) {
      return `This browser has no WebAssembly with SIMD, which the page needs. ${newer}`;
    }
    if (!("DecompressionStream" in window && "createImageBitmap" in window)) {
      return `This browser is too old for this page. ${newer}`;
    }
    return "";
  }

  function tell(why) {
    const problem = document.getElementById("problem");
    problem.style.whiteSpace = "pre-line";
    problem.textContent = why;
    problem.hidden = false;
  }

  const why = obstacle();
  if (why) return tell(why);
  const script = document.createElement("script");
  script.type = "module";
  script.src = "page.js";
  script.onerror = async () => {
    const unserved = await globalThis.findUnserved("page.js", document.baseURI);
    tell(unserved || "A file of the page did not load. The browser's console has the reason.");
  };
  document.body.append(script);
})();
