/** Types of gemmtune.js and of the documents that `gemmtune export` writes (format 1). */

export type Dtype = "f32" | "f16";

/** C = activation(alpha * op(A) op(B) + beta * C + bias), row-major; what is left out is as usual. */
export interface Problem {
  m: number;
  n: number;
  k: number;
  a?: Dtype;
  b?: Dtype;
  c?: Dtype;
  acc?: Dtype;
  trans_a?: boolean;
  trans_b?: boolean;
  batch?: number;
  /** Elements between two A of a batch; 0: one A for all. The same for B and C. */
  stride_a?: number | null;
  stride_b?: number | null;
  stride_c?: number | null;
  alpha?: number;
  beta?: number;
  bias?: boolean;
  activation?: "none" | "relu" | "gelu" | "silu";
  math?: string;
}

/** times * batch * ceil(m / tile_m) * ... * ceil(m n / elements), of what is given. */
export interface Count {
  times: number;
  tile_m?: number;
  tile_n?: number;
  tile_k?: number;
  elements?: number;
}

export interface Kernel {
  family: string;
  config: Record<string, unknown>;
  kind: string;
  dialect: "naga" | "tint" | null;
  wgsl?: string;
  wgsl_file?: string;
  bindings: { binding: number; name: string; type: GPUBufferBindingType }[];
  passes: {
    entry_point: string; workgroup_size: number[]; workgroups: Count;
    workspace?: "read-only-storage"; // instead of what bindings has
  }[];
  workspace_bytes: Count | null;
  /** Elements of k that a workgroup takes at a time; 1 where it is missing. */
  step_k?: number;
  needs: {
    features: string[];
    limits: Record<string, number>;
    subgroup_size: number | null;
    unchecked: boolean;
  };
  valid: Record<string, { min?: number; max?: number; multiple?: number }>;
}

export interface Timed {
  kernel: string;
  /** Of the same config, for other sizes; a string or null in older documents. */
  general: string[] | string | null;
  time_ns: number;
  [fact: string]: unknown;
}

/** What asks: feature, threshold, where to go on if it is less and if not; or votes by config. */
export type Node = [feature: number, threshold: number, less: Node, more: Node] | Record<string, number>;

export interface GemmtuneDocument {
  format: number;
  generator: string;
  device_key: string;
  device: Record<string, unknown>;
  params: { size: number; fields: { name: string; type: string; offset: number }[] };
  model: {
    at_once: number;
    busy?: number;
    launch_ns: number;
    bytes_per_ns: number;
    paces?: Record<string, [held: number, more: number]>;
  };
  conditions: Record<string, string>[];
  kernels: Record<string, Kernel>;
  problems: {
    key: string;
    problem: Record<string, unknown>;
    results: Timed[];
    /** Of configs that have kernels because of other problems. */
    others?: Timed[];
  }[];
  /** By kind: which kernels to take first. */
  forests?: Record<string, { newest: string; kernels: string[][]; trees: Node[] }>;
  fallbacks: Record<string, string[]>;
}

/** What a device can do. */
export interface Able {
  dialect: string;
  features: string[];
  limits: Record<string, number> | GPUSupportedLimits;
  subgroup_size: number;
}

export interface Chosen {
  id: string;
  source: "exact" | "near" | "default";
  time_ns: number | null;
}

/** A problem made ready. */
export interface Plan {
  gemm: Problem;
  choice: Chosen;
  kernel: Kernel;
  /** Adds the product to a compute pass; makes nothing but, for new buffers, a bind group. */
  encode(pass: GPUComputePassEncoder, a: GPUBuffer, b: GPUBuffer, c: GPUBuffer, bias?: GPUBuffer): void;
}

export const Gemmtune: {
  /** `source`: the document, or its URL. */
  load(device: GPUDevice, source: string | GemmtuneDocument): Promise<Gemmtune>;
};

export interface Gemmtune {
  doc: GemmtuneDocument;
  able: Able;
  /** Of the first candidate that the driver takes. Throws a RangeError where a size is not 0 or more. */
  plan(problem: Problem): Promise<Plan>;
  /**
   * Typed arrays in, a new one out: Float32Array, or Uint16Array with the bits of f16. Throws a
   * RangeError where an operand is too short or missing, as `c` is with a beta but without it.
   */
  matmul(
    problem: Problem,
    a: ArrayBufferView,
    b: ArrayBufferView,
    more?: { c?: ArrayBufferView; bias?: ArrayBufferView },
  ): Promise<Float32Array | Uint16Array>;
}

/** What kernels are made for: all of a problem but its sizes and factors. */
export function kind(problem: Problem): string;
/** Bytes that an operand takes. */
export function bytes(problem: Problem, operand: "a" | "b" | "c" | "bias"): number;
/** A number that follows from the sizes, e.g. of workgroups. */
export function count(rule: Count, problem: Problem): number;
/** Kernels that can do a problem, best first. */
export function candidates(document: GemmtuneDocument, problem: Problem, able: Able): Chosen[];
