// What the page needs of the browser, checked before anything is loaded. A plain script: browsers
// load no modules from file://.

(() => {
  // a function that returns a vector of 128 bits: i32.const 0, i8x16.splat
  const simd = Uint8Array.of(
    0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0,
    10, 8, 1, 6, 0, 65, 0, 253, 15, 11,
  );

  function obstacle() {
    if (location.protocol === "file:") {
      return (
        "Browsers let a page that is opened as a file load nothing. Serve its folder instead:" +
        " in a terminal, in this folder, type\n\npython -m http.server\n\nand open" +
        " http://localhost:8000"
      );
    }
    const newer = "A current Chrome, Edge, Firefox or Safari shows it.";
    if (typeof WebAssembly !== "object" || !WebAssembly.validate(simd)) {
      return `This browser has no WebAssembly with SIMD, which the page computes with. ${newer}`;
    }
    if (!("DecompressionStream" in window && "createImageBitmap" in window)) {
      return `This browser is too old for this page. ${newer}`;
    }
    return "";
  }

  const why = obstacle();
  if (why) {
    const problem = document.getElementById("problem");
    problem.style.whiteSpace = "pre-line";
    problem.textContent = why;
    problem.hidden = false;
    return;
  }
  const script = document.createElement("script");
  script.type = "module";
  script.src = "page.js";
  document.body.append(script);
})();
