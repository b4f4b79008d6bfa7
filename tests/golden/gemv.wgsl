// gemmtune gemv kernel for 16x16x8:f16,f16,f32,f32:nn:bias,relu
// config: dims=static,lanes_k=4,lanes_l=8,reg_l=8,reg_s=4,sg_lanes=1,side=m,split_k=1,unroll_k=4,vec=8
enable f16;

const TILE_M = 4u;
const TILE_N = 64u;
const TILE_K = 16u;
const M = 16u;
const N = 16u;
const K = 8u;
struct Params {
  m: u32, n: u32, k: u32, batch: u32,
  stride_a: u32, stride_b: u32, stride_c: u32, // elements from one matrix of a batch to the next
  first_workgroup: u32, last_workgroup: u32,   // the part of the problem that this dispatch does
  alpha: f32, beta: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;

var<workgroup> sums: array<vec4<f32>, 256>;
fn activation(x: vec4<f32>) -> vec4<f32> {
  return max(x, vec4<f32>(0.0));
}

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) tid: u32) {
  let id = params.first_workgroup + wid.y * groups.x + wid.x;
  let tiles_m = (M + TILE_M - 1u) / TILE_M;
  let tiles_n = (N + TILE_N - 1u) / TILE_N;
  if (id >= min(params.last_workgroup, tiles_m * tiles_n * params.batch)) { return; }
  let matrix = id / (tiles_m * tiles_n);
  let tile = id % (tiles_m * tiles_n);
  let m0 = (tile / tiles_n) * TILE_M;
  let n0 = (tile % tiles_n) * TILE_N;
  let k_begin = 0u;
  let k_stop = K;
  let lk = tid / 8u;
  let l = n0 + tid % 8u * 8u;
  let w_first = matrix * params.stride_b;
  let w_col0_0 = min(l + 0u, N - 8u);
  let x_first0 = matrix * params.stride_a + (m0 + 0u) * K;
  let x_first1 = matrix * params.stride_a + (m0 + 1u) * K;
  let x_first2 = matrix * params.stride_a + (m0 + 2u) * K;
  let x_first3 = matrix * params.stride_a + (m0 + 3u) * K;
  var sum0_0_0 = vec4<f32>();
  var sum0_0_1 = vec4<f32>();
  var sum1_0_0 = vec4<f32>();
  var sum1_0_1 = vec4<f32>();
  var sum2_0_0 = vec4<f32>();
  var sum2_0_1 = vec4<f32>();
  var sum3_0_0 = vec4<f32>();
  var sum3_0_1 = vec4<f32>();
  var k = k_begin + lk * 4u;
  for (; k + 4u <= k_stop; k += TILE_K) {
    let w_row0 = w_first + (k + 0u) * N;
    let w0_0_0 = b[(w_row0 + w_col0_0) / 8u];
    let w_row1 = w_first + (k + 1u) * N;
    let w1_0_0 = b[(w_row1 + w_col0_0) / 8u];
    let w_row2 = w_first + (k + 2u) * N;
    let w2_0_0 = b[(w_row2 + w_col0_0) / 8u];
    let w_row3 = w_first + (k + 3u) * N;
    let w3_0_0 = b[(w_row3 + w_col0_0) / 8u];
    let x0_0 = a[(x_first0 + k + 0u) / 4u];
    let x1_0 = a[(x_first1 + k + 0u) / 4u];
    let x2_0 = a[(x_first2 + k + 0u) / 4u];
    let x3_0 = a[(x_first3 + k + 0u) / 4u];
    let y0_0 = vec4<f32>(f32(x0_0.x));
    let y0_1 = vec4<f32>(f32(x1_0.x));
    let y0_2 = vec4<f32>(f32(x2_0.x));
    let y0_3 = vec4<f32>(f32(x3_0.x));
    let v0_0_0 = vec4<f32>(unpack2x16float(w0_0_0.x), unpack2x16float(w0_0_0.y));
    sum0_0_0 = fma(y0_0, v0_0_0, sum0_0_0);
    sum1_0_0 = fma(y0_1, v0_0_0, sum1_0_0);
    sum2_0_0 = fma(y0_2, v0_0_0, sum2_0_0);
    sum3_0_0 = fma(y0_3, v0_0_0, sum3_0_0);
    let v0_0_1 = vec4<f32>(unpack2x16float(w0_0_0.z), unpack2x16float(w0_0_0.w));
    sum0_0_1 = fma(y0_0, v0_0_1, sum0_0_1);
    sum1_0_1 = fma(y0_1, v0_0_1, sum1_0_1);
    sum2_0_1 = fma(y0_2, v0_0_1, sum2_0_1);
    sum3_0_1 = fma(y0_3, v0_0_1, sum3_0_1);
    let y1_0 = vec4<f32>(f32(x0_0.y));
    let y1_1 = vec4<f32>(f32(x1_0.y));
    let y1_2 = vec4<f32>(f32(x2_0.y));
    let y1_3 = vec4<f32>(f32(x3_0.y));
    let v1_0_0 = vec4<f32>(unpack2x16float(w1_0_0.x), unpack2x16float(w1_0_0.y));
    sum0_0_0 = fma(y1_0, v1_0_0, sum0_0_0);
    sum1_0_0 = fma(y1_1, v1_0_0, sum1_0_0);
    sum2_0_0 = fma(y1_2, v1_0_0, sum2_0_0);
    sum3_0_0 = fma(y1_3, v1_0_0, sum3_0_0);
    let v1_0_1 = vec4<f32>(unpack2x16float(w1_0_0.z), unpack2x16float(w1_0_0.w));
    sum0_0_1 = fma(y1_0, v1_0_1, sum0_0_1);
    sum1_0_1 = fma(y1_1, v1_0_1, sum1_0_1);
    sum2_0_1 = fma(y1_2, v1_0_1, sum2_0_1);
    sum3_0_1 = fma(y1_3, v1_0_1, sum3_0_1);
    let y2_0 = vec4<f32>(f32(x0_0.z));
    let y2_1 = vec4<f32>(f32(x1_0.z));
    let y2_2 = vec4<f32>(f32(x2_0.z));
    let y2_3 = vec4<f32>(f32(x3_0.z));
    let v2_0_0 = vec4<f32>(unpack2x16float(w2_0_0.x), unpack2x16float(w2_0_0.y));
    sum0_0_0 = fma(y2_0, v2_0_0, sum0_0_0);
    sum1_0_0 = fma(y2_1, v2_0_0, sum1_0_0);
    sum2_0_0 = fma(y2_2, v2_0_0, sum2_0_0);
    sum3_0_0 = fma(y2_3, v2_0_0, sum3_0_0);
    let v2_0_1 = vec4<f32>(unpack2x16float(w2_0_0.z), unpack2x16float(w2_0_0.w));
    sum0_0_1 = fma(y2_0, v2_0_1, sum0_0_1);
    sum1_0_1 = fma(y2_1, v2_0_1, sum1_0_1);
    sum2_0_1 = fma(y2_2, v2_0_1, sum2_0_1);
    sum3_0_1 = fma(y2_3, v2_0_1, sum3_0_1);
    let y3_0 = vec4<f32>(f32(x0_0.w));
    let y3_1 = vec4<f32>(f32(x1_0.w));
    let y3_2 = vec4<f32>(f32(x2_0.w));
    let y3_3 = vec4<f32>(f32(x3_0.w));
    let v3_0_0 = vec4<f32>(unpack2x16float(w3_0_0.x), unpack2x16float(w3_0_0.y));
    sum0_0_0 = fma(y3_0, v3_0_0, sum0_0_0);
    sum1_0_0 = fma(y3_1, v3_0_0, sum1_0_0);
    sum2_0_0 = fma(y3_2, v3_0_0, sum2_0_0);
    sum3_0_0 = fma(y3_3, v3_0_0, sum3_0_0);
    let v3_0_1 = vec4<f32>(unpack2x16float(w3_0_0.z), unpack2x16float(w3_0_0.w));
    sum0_0_1 = fma(y3_0, v3_0_1, sum0_0_1);
    sum1_0_1 = fma(y3_1, v3_0_1, sum1_0_1);
    sum2_0_1 = fma(y3_2, v3_0_1, sum2_0_1);
    sum3_0_1 = fma(y3_3, v3_0_1, sum3_0_1);
  }
  if (k < k_stop) {
    let w_row0 = w_first + (k + 0u) * N;
    let w0_0_0 = select(vec4<u32>(), b[(w_row0 + w_col0_0) / 8u], k + 0u < k_stop);
    let w_row1 = w_first + (k + 1u) * N;
    let w1_0_0 = select(vec4<u32>(), b[(w_row1 + w_col0_0) / 8u], k + 1u < k_stop);
    let w_row2 = w_first + (k + 2u) * N;
    let w2_0_0 = select(vec4<u32>(), b[(w_row2 + w_col0_0) / 8u], k + 2u < k_stop);
    let w_row3 = w_first + (k + 3u) * N;
    let w3_0_0 = select(vec4<u32>(), b[(w_row3 + w_col0_0) / 8u], k + 3u < k_stop);
    let x0_0 = select(vec4<f16>(), a[(x_first0 + k + 0u) / 4u], k + 0u < k_stop);
    let x1_0 = select(vec4<f16>(), a[(x_first1 + k + 0u) / 4u], k + 0u < k_stop);
    let x2_0 = select(vec4<f16>(), a[(x_first2 + k + 0u) / 4u], k + 0u < k_stop);
    let x3_0 = select(vec4<f16>(), a[(x_first3 + k + 0u) / 4u], k + 0u < k_stop);
    let y0_0 = vec4<f32>(f32(x0_0.x));
    let y0_1 = vec4<f32>(f32(x1_0.x));
    let y0_2 = vec4<f32>(f32(x2_0.x));
    let y0_3 = vec4<f32>(f32(x3_0.x));
    let v0_0_0 = vec4<f32>(unpack2x16float(w0_0_0.x), unpack2x16float(w0_0_0.y));
    sum0_0_0 = fma(y0_0, v0_0_0, sum0_0_0);
    sum1_0_0 = fma(y0_1, v0_0_0, sum1_0_0);
    sum2_0_0 = fma(y0_2, v0_0_0, sum2_0_0);
    sum3_0_0 = fma(y0_3, v0_0_0, sum3_0_0);
    let v0_0_1 = vec4<f32>(unpack2x16float(w0_0_0.z), unpack2x16float(w0_0_0.w));
    sum0_0_1 = fma(y0_0, v0_0_1, sum0_0_1);
    sum1_0_1 = fma(y0_1, v0_0_1, sum1_0_1);
    sum2_0_1 = fma(y0_2, v0_0_1, sum2_0_1);
    sum3_0_1 = fma(y0_3, v0_0_1, sum3_0_1);
    let y1_0 = vec4<f32>(f32(x0_0.y));
    let y1_1 = vec4<f32>(f32(x1_0.y));
    let y1_2 = vec4<f32>(f32(x2_0.y));
    let y1_3 = vec4<f32>(f32(x3_0.y));
    let v1_0_0 = vec4<f32>(unpack2x16float(w1_0_0.x), unpack2x16float(w1_0_0.y));
    sum0_0_0 = fma(y1_0, v1_0_0, sum0_0_0);
    sum1_0_0 = fma(y1_1, v1_0_0, sum1_0_0);
    sum2_0_0 = fma(y1_2, v1_0_0, sum2_0_0);
    sum3_0_0 = fma(y1_3, v1_0_0, sum3_0_0);
    let v1_0_1 = vec4<f32>(unpack2x16float(w1_0_0.z), unpack2x16float(w1_0_0.w));
    sum0_0_1 = fma(y1_0, v1_0_1, sum0_0_1);
    sum1_0_1 = fma(y1_1, v1_0_1, sum1_0_1);
    sum2_0_1 = fma(y1_2, v1_0_1, sum2_0_1);
    sum3_0_1 = fma(y1_3, v1_0_1, sum3_0_1);
    let y2_0 = vec4<f32>(f32(x0_0.z));
    let y2_1 = vec4<f32>(f32(x1_0.z));
    let y2_2 = vec4<f32>(f32(x2_0.z));
    let y2_3 = vec4<f32>(f32(x3_0.z));
    let v2_0_0 = vec4<f32>(unpack2x16float(w2_0_0.x), unpack2x16float(w2_0_0.y));
    sum0_0_0 = fma(y2_0, v2_0_0, sum0_0_0);
    sum1_0_0 = fma(y2_1, v2_0_0, sum1_0_0);
    sum2_0_0 = fma(y2_2, v2_0_0, sum2_0_0);
    sum3_0_0 = fma(y2_3, v2_0_0, sum3_0_0);
    let v2_0_1 = vec4<f32>(unpack2x16float(w2_0_0.z), unpack2x16float(w2_0_0.w));
    sum0_0_1 = fma(y2_0, v2_0_1, sum0_0_1);
    sum1_0_1 = fma(y2_1, v2_0_1, sum1_0_1);
    sum2_0_1 = fma(y2_2, v2_0_1, sum2_0_1);
    sum3_0_1 = fma(y2_3, v2_0_1, sum3_0_1);
    let y3_0 = vec4<f32>(f32(x0_0.w));
    let y3_1 = vec4<f32>(f32(x1_0.w));
    let y3_2 = vec4<f32>(f32(x2_0.w));
    let y3_3 = vec4<f32>(f32(x3_0.w));
    let v3_0_0 = vec4<f32>(unpack2x16float(w3_0_0.x), unpack2x16float(w3_0_0.y));
    sum0_0_0 = fma(y3_0, v3_0_0, sum0_0_0);
    sum1_0_0 = fma(y3_1, v3_0_0, sum1_0_0);
    sum2_0_0 = fma(y3_2, v3_0_0, sum2_0_0);
    sum3_0_0 = fma(y3_3, v3_0_0, sum3_0_0);
    let v3_0_1 = vec4<f32>(unpack2x16float(w3_0_0.z), unpack2x16float(w3_0_0.w));
    sum0_0_1 = fma(y3_0, v3_0_1, sum0_0_1);
    sum1_0_1 = fma(y3_1, v3_0_1, sum1_0_1);
    sum2_0_1 = fma(y3_2, v3_0_1, sum2_0_1);
    sum3_0_1 = fma(y3_3, v3_0_1, sum3_0_1);
  }
  let slot = tid;
  let place = lk;
  
  sums[slot + 0u] = sum0_0_0;
  sums[slot + 32u] = sum0_0_1;
  sums[slot + 64u] = sum1_0_0;
  sums[slot + 96u] = sum1_0_1;
  sums[slot + 128u] = sum2_0_0;
  sums[slot + 160u] = sum2_0_1;
  sums[slot + 192u] = sum3_0_0;
  sums[slot + 224u] = sum3_0_1;
  
  workgroupBarrier();
  if (place < 2u) {
    sums[slot + 0u] += sums[slot + 16u];
    sums[slot + 32u] += sums[slot + 48u];
    sums[slot + 64u] += sums[slot + 80u];
    sums[slot + 96u] += sums[slot + 112u];
    sums[slot + 128u] += sums[slot + 144u];
    sums[slot + 160u] += sums[slot + 176u];
    sums[slot + 192u] += sums[slot + 208u];
    sums[slot + 224u] += sums[slot + 240u];
  }
  workgroupBarrier();
  if (place < 1u) {
    sums[slot + 0u] += sums[slot + 8u];
    sums[slot + 32u] += sums[slot + 40u];
    sums[slot + 64u] += sums[slot + 72u];
    sums[slot + 96u] += sums[slot + 104u];
    sums[slot + 128u] += sums[slot + 136u];
    sums[slot + 160u] += sums[slot + 168u];
    sums[slot + 192u] += sums[slot + 200u];
    sums[slot + 224u] += sums[slot + 232u];
  }
  workgroupBarrier();
  if (lk == 0u) {
    {
      let sum = sums[slot + 0u];
      let s = m0 + 0u;
      {
        let at_l = l + 0u;
        if (at_l < N) { c[(matrix * params.stride_c + s * N + at_l) / 4u] = activation(params.alpha * sum + vec4<f32>(bias[at_l / 4u])); }
      }
    }
    {
      let sum = sums[slot + 32u];
      let s = m0 + 0u;
      {
        let at_l = l + 4u;
        if (at_l < N) { c[(matrix * params.stride_c + s * N + at_l) / 4u] = activation(params.alpha * sum + vec4<f32>(bias[at_l / 4u])); }
      }
    }
    {
      let sum = sums[slot + 64u];
      let s = m0 + 1u;
      {
        let at_l = l + 0u;
        if (at_l < N) { c[(matrix * params.stride_c + s * N + at_l) / 4u] = activation(params.alpha * sum + vec4<f32>(bias[at_l / 4u])); }
      }
    }
    {
      let sum = sums[slot + 96u];
      let s = m0 + 1u;
      {
        let at_l = l + 4u;
        if (at_l < N) { c[(matrix * params.stride_c + s * N + at_l) / 4u] = activation(params.alpha * sum + vec4<f32>(bias[at_l / 4u])); }
      }
    }
    {
      let sum = sums[slot + 128u];
      let s = m0 + 2u;
      {
        let at_l = l + 0u;
        if (at_l < N) { c[(matrix * params.stride_c + s * N + at_l) / 4u] = activation(params.alpha * sum + vec4<f32>(bias[at_l / 4u])); }
      }
    }
    {
      let sum = sums[slot + 160u];
      let s = m0 + 2u;
      {
        let at_l = l + 4u;
        if (at_l < N) { c[(matrix * params.stride_c + s * N + at_l) / 4u] = activation(params.alpha * sum + vec4<f32>(bias[at_l / 4u])); }
      }
    }
    {
      let sum = sums[slot + 192u];
      let s = m0 + 3u;
      {
        let at_l = l + 0u;
        if (at_l < N) { c[(matrix * params.stride_c + s * N + at_l) / 4u] = activation(params.alpha * sum + vec4<f32>(bias[at_l / 4u])); }
      }
    }
    {
      let sum = sums[slot + 224u];
      let s = m0 + 3u;
      {
        let at_l = l + 4u;
        if (at_l < N) { c[(matrix * params.stride_c + s * N + at_l) / 4u] = activation(params.alpha * sum + vec4<f32>(bias[at_l / 4u])); }
      }
    }
  }
}
