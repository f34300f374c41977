// What the page uses of three.js; the build leaves out the rest.
export {
  BufferAttribute, BufferGeometry, Color, DirectionalLight, DoubleSide, Group, HemisphereLight, LatheGeometry, Mesh,
  MeshLambertMaterial, PerspectiveCamera, PlaneGeometry, Scene, ShaderMaterial, ShadowMaterial, Vector2, Vector3,
  VSMShadowMap, WebGLRenderer,
} from "three";
export { OrbitControls } from "three/examples/jsm/controls/OrbitControls.js";
