// Multiplies with native matrices as kernels do, so that the host can compare: each subgroup its own
// A (SIZE x 2 SIZE) with the same B (2 SIZE x SIZE), both as rows and as columns, from storage or
// from workgroup memory. Words that begin with a dollar sign are filled in.
$f16
enable wgpu_cooperative_matrix;

const SIZE = ${size}u;
const WIDTH = ${width}u; // elements of one $pointee
const PAD = ${pad}u; // unused elements after each row or column
const LANES = ${lanes}u;
const SUBGROUPS = ${subgroups}u;
// All in units of $pointee: from one row or column to the next, and sizes.
const A_ROW = (2u * SIZE + PAD) / WIDTH;
const A_COL = (SIZE + PAD) / WIDTH;
const A_ROWS = SIZE * A_ROW;
const A_EACH = A_ROWS + 2u * SIZE * A_COL;
const B_ROW = A_COL;
const B_COL = A_ROW;
const B_ROWS = 2u * SIZE * B_ROW;
const B_ALL = B_ROWS + SIZE * B_COL;

// a: A of each subgroup as rows, then as columns; b: the same of B
@group(0) @binding(0) var<storage, read> a: array<$pointee>;
@group(0) @binding(1) var<storage, read> b: array<$pointee>;
// RESULTS matrices of each subgroup, as rows: the product from rows, from columns, their sum
@group(0) @binding(2) var<storage, read_write> c: array<$acc>;
const RESULTS = 3u;

var<workgroup> tile_a: array<$pointee, SUBGROUPS * A_EACH>;
var<workgroup> tile_b: array<$pointee, B_ALL>;
var<workgroup> out: array<$acc, SUBGROUPS * SIZE * SIZE>;

@compute @workgroup_size(LANES * SUBGROUPS)
fn main(@builtin(local_invocation_index) tid: u32) {
  for (var i = tid; i < SUBGROUPS * A_EACH; i += LANES * SUBGROUPS) { tile_a[i] = a[i]; }
  for (var i = tid; i < B_ALL; i += LANES * SUBGROUPS) { tile_b[i] = b[i]; }
  workgroupBarrier();
  let subgroup = tid / LANES;
  let rows = subgroup * A_EACH;
  let cols = rows + A_ROWS;
  var sum0 = $matrix<$acc, C>();
  var sum1 = $matrix<$acc, C>();
  for (var k = 0u; k < 2u * SIZE; k += SIZE) {
    sum0 = coopMultiplyAdd(
      coopLoadT<$matrix<$ab, A>>(&$from_a[rows + k / WIDTH], A_ROW),
      coopLoadT<$matrix<$ab, B>>(&$from_b[k * B_ROW], B_ROW), sum0);
    sum1 = coopMultiplyAdd(
      coopLoad<$matrix<$ab, A>>(&$from_a[cols + k * A_COL], A_COL),
      coopLoad<$matrix<$ab, B>>(&$from_b[B_ROWS + k / WIDTH], B_COL), sum1);
  }
  let at = subgroup * RESULTS * SIZE * SIZE;
  coopStoreT(sum0, &c[at], SIZE);
  coopStoreT(sum1, &c[at + SIZE * SIZE], SIZE);
  coopStoreT(sum0 + sum1, &out[subgroup * SIZE * SIZE], SIZE);
  workgroupBarrier();
  for (var i = tid % LANES; i < SIZE * SIZE; i += LANES) {
    c[at + 2u * SIZE * SIZE + i] = out[subgroup * SIZE * SIZE + i];
  }
}
