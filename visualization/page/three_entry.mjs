// The exports of three.js that the page uses; the build removes the rest.
export {
  BufferAttribute, BufferGeometry, Color, DirectionalLight, DoubleSide, Group, HemisphereLight, LatheGeometry, Mesh,
  MeshLambertMaterial, PerspectiveCamera, PlaneGeometry, Scene, ShaderMaterial, ShadowMaterial, Vector2, Vector3,
  VSMShadowMap, WebGLRenderer,
} from "three";
export { OrbitControls } from "three/examples/jsm/controls/OrbitControls.js";
