// Build three.min.js from the pinned packages: run npm ci && npm run build in this folder.
//
// Tree shaking keeps parts of three.js that the page never uses: shader programs of other materials, environment maps,
// virtual reality. They are removed explicitly.
import { copyFile, readFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = path.dirname(fileURLToPath(import.meta.url));
const three = path.join(here, "node_modules", "three");
const { version } = JSON.parse(await readFile(path.join(three, "package.json"), "utf8"));

const PROGRAMS = new Set(["meshlambert", "shadow", "depth", "distance", "vsm"]);
const CHUNKS = /^(lights_physical|lights_phong|lights_toon|transmission|iridescence|clearcoat|envmap_physical|lightprobes|cube_uv)/;
const STUBS = {
  "PMREMGenerator.js": "export class PMREMGenerator {}",
  "DFGLUTData.js": "export function getDFGLUT() {}",
  "WebXRManager.js": `export class WebXRManager {
    enabled = false; isPresenting = false;
    addEventListener() {} removeEventListener() {} setAnimationLoop() {} dispose() {}
    getEnvironmentBlendMode() { return "opaque"; }
  }`,
};

function shader(text) {
  return text.replace(/\/\*[^]*?\*\//g, "").replace(/\/\/.*$/gm, "").replace(/[ \t]*\n\s*/g, "\n");
}

const source = {
  name: "three",
  setup(builder) {
    builder.onResolve({ filter: /^three$/ }, () => ({ path: path.join(three, "src", "Three.js") }));
    builder.onLoad({ filter: /three[\\/]src[\\/].*\.js$/ }, async ({ path: file }) => {
      const name = path.basename(file);
      if (name in STUBS) return { contents: STUBS[name] };
      if (!name.endsWith(".glsl.js")) return undefined;
      const stem = name.slice(0, -".glsl.js".length);
      if (path.basename(path.dirname(file)) === "ShaderLib") {
        if (!PROGRAMS.has(stem)) return { contents: 'export const vertex = "", fragment = "";' };
      } else if (CHUNKS.test(stem)) {
        return { contents: 'export default "";' };
      }
      return { contents: shader(await readFile(file, "utf8")) };
    });
  },
};

await build({
  entryPoints: [path.join(here, "three_entry.mjs")], outfile: path.join(here, "three.min.js"), plugins: [source],
  bundle: true, minify: true, format: "iife", globalName: "THREE", target: "es2020", legalComments: "none",
  banner: { js: `/* three.js ${version}, cut to what this page uses; MIT licence, see three.LICENSE.txt */` },
});
await copyFile(path.join(three, "LICENSE"), path.join(here, "three.LICENSE.txt"));
