// gemmtune coopmat_f16x3 kernel for 16x16x8:f32,f32,f32,f32:nn:f16x3,bias,relu
// config: chain=1,checked=true,corrections=within,dims=static,frag=16,frags_m=1,frags_n=1,group_m=1,order=stream_a,pad=8,prefetch=true,sg_size=32,stages=1,subgroups_m=2,subgroups_n=2,tile_k=16,vec=4
enable f16;
enable wgpu_cooperative_matrix;

const TILE_M = 32u;
const TILE_N = 32u;
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
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;

@group(0) @binding(5) var<storage, read_write> workspace: array<u32>;

var<workgroup> high_a: array<vec4<f16>, 192>;
var<workgroup> low_a: array<vec4<f16>, 192>;
var<workgroup> high_b: array<vec4<f16>, 160>;
var<workgroup> low_b: array<vec4<f16>, 160>;
var<workgroup> out: array<f32, 1024>;
fn activation(x: vec4<f32>) -> vec4<f32> {
  return max(x, vec4<f32>(0.0));
}

fn scale(exponent: u32) -> f32 {
  return bitcast<f32>(exponent << 23u);
}

fn unscaled(sum: vec4<f32>, row: u32, columns: vec4<u32>) -> vec4<f32> {
  let exponent = vec4<i32>(254) - vec4<i32>(i32(row)) - vec4<i32>(columns);
  let half = exponent >> vec4<u32>(1u);
  return sum * bitcast<vec4<f32>>((half + vec4<i32>(127)) << vec4<u32>(23u))
    * bitcast<vec4<f32>>((exponent - half + vec4<i32>(127)) << vec4<u32>(23u));
}

// x rounded to the 11 bits of an f16. By bits: compilers take f32(f16(x)) to be x.
fn high_part(x: vec4<f32>) -> vec4<f32> {
  return bitcast<vec4<f32>>((bitcast<vec4<u32>>(x) + vec4<u32>(0x1000u)) & vec4<u32>(0xffffe000u));
}

@compute @workgroup_size(128)
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
  let a_ld = K / 4u;
  let a_q0 = tid % 4u;
  let a_r0 = tid / 4u;
  let a_base0 = matrix * params.stride_a / 4u + min(m0 + a_r0, M - 1u) * a_ld + a_q0;
  let b_ld = N / 4u;
  let b_q0 = tid % 8u;
  let b_r0 = tid / 8u;
  let b_base0 = matrix * params.stride_b / 4u + b_r0 * b_ld + min(n0 / 4u + b_q0, b_ld - 1u);
  let a_scale0 = scale(workspace[matrix * M + min(m0 + a_r0, M - 1u)]);
  let b_scale0 = vec4<f32>(scale(workspace[params.batch * M + matrix * N + min(n0 + b_q0 * 4u + 0u, N - 1u)]), scale(workspace[params.batch * M + matrix * N + min(n0 + b_q0 * 4u + 1u, N - 1u)]), scale(workspace[params.batch * M + matrix * N + min(n0 + b_q0 * 4u + 2u, N - 1u)]), scale(workspace[params.batch * M + matrix * N + min(n0 + b_q0 * 4u + 3u, N - 1u)]));
  // where this subgroup's part of the tile begins
  let sg_row = tid / 64u * 16u;
  let sg_col = tid / 32u % 2u * 16u;
  let a_first = sg_row * 6u;
  let b_first = sg_col / 4u;
  var sum0_0 = coop_mat16x16<f32, C>();
  var next_a0: vec4<f32>;
  var next_b0: vec4<f32>;
  next_a0 = select(vec4<f32>(), vec4<f32>(a[a_base0 + 0u / 4u]), 0u + a_q0 * 4u < K);
  next_b0 = select(vec4<f32>(), vec4<f32>(b[b_base0 + 0u * b_ld]), 0u + b_r0 < K);
  for (var k0 = 0u; k0 < K; k0 += TILE_K) {
    {
      let x = next_a0 * a_scale0;
      let high = high_part(x);
      high_a[a_r0 * 6u + a_q0] = vec4<f16>(high);
      low_a[a_r0 * 6u + a_q0] = vec4<f16>(x - high);
    }
    {
      let x = next_b0 * b_scale0;
      let high = high_part(x);
      high_b[b_r0 * 10u + b_q0] = vec4<f16>(high);
      low_b[b_r0 * 10u + b_q0] = vec4<f16>(x - high);
    }
    workgroupBarrier();
    // the last step loads its own tile again, which nothing reads: cheaper than a branch
    let k1 = select(k0, k0 + TILE_K, k0 + TILE_K < K);
    next_a0 = select(vec4<f32>(), vec4<f32>(a[a_base0 + k1 / 4u]), k1 + a_q0 * 4u < K);
    next_b0 = select(vec4<f32>(), vec4<f32>(b[b_base0 + k1 * b_ld]), k1 + b_r0 < K);
    {
      let high_b0_0 = coopLoadT<coop_mat16x16<f16, B>>(&high_b[b_first + 0u], 10u);
      let low_b0_0 = coopLoadT<coop_mat16x16<f16, B>>(&low_b[b_first + 0u], 10u);
      let high_a0_0 = coopLoadT<coop_mat16x16<f16, A>>(&high_a[a_first + 0u], 6u);
      let low_a0_0 = coopLoadT<coop_mat16x16<f16, A>>(&low_a[a_first + 0u], 6u);
      var part0_0 = coop_mat16x16<f32, C>();
      part0_0 = coopMultiplyAdd(low_a0_0, high_b0_0, part0_0);
      part0_0 = coopMultiplyAdd(high_a0_0, low_b0_0, part0_0);
      part0_0 = coopMultiplyAdd(high_a0_0, high_b0_0, part0_0);
      sum0_0 = sum0_0 + part0_0;
    }
    workgroupBarrier();
  }
  let lane = tid % 32u;
  let out_first = tid / 32u * 256u;
  coopStoreT(sum0_0, &out[out_first], 16u);
  workgroupBarrier();
  for (var e = lane * 4u; e < 256u; e += 128u) {
    let row = m0 + sg_row + 0u + e / 16u;
    let col = n0 + sg_col + 0u + e % 16u;
    if (row < M && col < N) { c[(matrix * params.stride_c + row * N + col) / 4u] = activation(params.alpha * unscaled(vec4<f32>(out[out_first + e], out[out_first + e + 1u], out[out_first + e + 2u], out[out_first + e + 3u]), workspace[matrix * M + row], vec4<u32>(workspace[params.batch * M + matrix * N + col], workspace[params.batch * M + matrix * N + col + 1u], workspace[params.batch * M + matrix * N + col + 2u], workspace[params.batch * M + matrix * N + col + 3u])) + vec4<f32>(bias[col / 4u])); }
  }
  workgroupBarrier();
}

var<workgroup> best: array<u32, 1024>;
fn magnitude_a(x: vec4<f32>) -> vec4<u32> {
  let bits = bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu);
  return select(bits, vec4<u32>(), bits >= vec4<u32>(0x7f800000u));
}
fn magnitude_b(x: vec4<f32>) -> vec4<u32> {
  let bits = bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu);
  return select(bits, vec4<u32>(), bits >= vec4<u32>(0x7f800000u));
}

// Where the largest magnitude is 2^e or more and under 2^(e + 1): 2^(14 - e), at most 2^126.
@compute @workgroup_size(256)
fn scales(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_index) tid: u32) {
  let id = params.first_workgroup + wid.y * groups.x + wid.x;
  let shares_m = (M + 8u - 1u) / 8u;
  let shares_n = (N + 32u - 1u) / 32u;
  if (id >= min(params.last_workgroup, (shares_m + shares_n) * params.batch)) { return; }
  if (id < shares_m * params.batch) {
    let matrix = id / shares_m;
    let w0 = id % shares_m * 8u;
    let share = tid / 32u;
    let lane = tid % 32u;
    let first = matrix * params.stride_a / 4u;
    var largest = vec4<u32>();
    let row = first + min(w0 + share, max(M, 1u) - 1u) * (K / 4u);
    for (var q = lane; q < K / 4u; q += 128u) {
      largest = max(largest, magnitude_a(a[row + min(q + 0u, max(K / 4u, 1u) - 1u)]));
      largest = max(largest, magnitude_a(a[row + min(q + 32u, max(K / 4u, 1u) - 1u)]));
      largest = max(largest, magnitude_a(a[row + min(q + 64u, max(K / 4u, 1u) - 1u)]));
      largest = max(largest, magnitude_a(a[row + min(q + 96u, max(K / 4u, 1u) - 1u)]));
    }
    best[tid] = max(max(largest.x, largest.y), max(largest.z, largest.w));
    workgroupBarrier();
    if (tid < 8u && w0 + tid < M) {
      var top = 0u;
      for (var s = 0u; s < 32u; s++) {
        top = max(top, best[tid * 32u + s]);
      }
      workspace[matrix * M + w0 + tid] = min(268u - (top >> 23u), 253u);
    }
  } else {
    let matrix = (id - shares_m * params.batch) / shares_n;
    let w0 = (id - shares_m * params.batch) % shares_n * 32u;
    let share = tid / 8u;
    let lane = tid % 8u;
    let first = matrix * params.stride_b / 4u;
    var largest = vec4<u32>();
    let column = first + min(w0 / 4u + lane, max(N / 4u, 1u) - 1u);
    for (var k = share; k < K; k += 128u) {
      largest = max(largest, magnitude_b(b[column + min(k + 0u, max(K, 1u) - 1u) * (N / 4u)]));
      largest = max(largest, magnitude_b(b[column + min(k + 32u, max(K, 1u) - 1u) * (N / 4u)]));
      largest = max(largest, magnitude_b(b[column + min(k + 64u, max(K, 1u) - 1u) * (N / 4u)]));
      largest = max(largest, magnitude_b(b[column + min(k + 96u, max(K, 1u) - 1u) * (N / 4u)]));
    }
    best[share * 32u + lane * 4u + 0u] = largest[0];
    best[share * 32u + lane * 4u + 1u] = largest[1];
    best[share * 32u + lane * 4u + 2u] = largest[2];
    best[share * 32u + lane * 4u + 3u] = largest[3];
    workgroupBarrier();
    if (tid < 32u && w0 + tid < N) {
      var top = 0u;
      for (var s = 0u; s < 32u; s++) {
        top = max(top, best[s * 32u + tid]);
      }
      workspace[params.batch * M + matrix * N + w0 + tid] = min(268u - (top >> 23u), 253u);
    }
  }
}
