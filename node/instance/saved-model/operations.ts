import type * as Tf from '@tensorflow/tfjs'

/** Every operation that @tensorflow/tfjs-converter 4.22.0 executes, but for hash tables, which would need the initialisation that freezing drops. */
const BUILT_IN: ReadonlySet<string> = new Set(`
  Abs Acos Acosh Add AddN AddV2 All Any ArgMax ArgMin Asin Asinh Atan Atan2 Atanh AvgPool AvgPool3D BatchMatMul BatchMatMulV2 BatchToSpaceND BiasAdd
  Bincount BitwiseAnd BroadcastArgs BroadcastTo Cast Ceil ClipByValue Complex ComplexAbs Concat ConcatV2 Const Conv1D Conv2D Conv2DBackpropInput Conv3D
  Cos Cosh CropAndResize Cumprod Cumsum DenseBincount DepthToSpace DepthwiseConv2d DepthwiseConv2dNative Dilation2D Div DivNoNan Einsum Elu
  EmptyTensorList EnsureShape Enter Equal Erf EuclideanNorm Exit Exp ExpandDims Expm1 FFT FakeQuantWithMinMaxVars Fill Floor FloorDiv FloorMod
  FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 FusedDepthwiseConv2dNative Gather GatherNd GatherV2 Greater GreaterEqual IFFT IRFFT Identity
  IdentityN Imag ImageProjectiveTransformV3 IsFinite IsInf IsNan LRN LeakyRelu Less LessEqual LinSpace ListDiff Log Log1p LogSoftmax LogicalAnd
  LogicalNot LogicalOr LoopCond LowerBound MatMul MatrixBandPart Max MaxPool MaxPool3D MaxPoolWithArgmax Maximum Mean Merge Min Minimum MirrorPad Mod
  Mul Multinomial Neg NextIteration NoOp NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5 NotEqual OneHot Ones OnesLike
  Pack Pad PadV2 Placeholder PlaceholderWithDefault Pow Prelu Print Prod RFFT RandomStandardNormal
  RandomUniform RandomUniformInt Range Rank Real RealDiv Reciprocal Relu Relu6 Reshape ResizeBilinear ResizeNearestNeighbor Reverse ReverseV2 Round
  Rsqrt ScatterNd Select SelectV2 Selu Shape ShapeN Sigmoid Sign Sin Sinh Size Slice Snapshot Softmax Softplus SpaceToBatchND SparseFillEmptyRows
  SparseReshape SparseSegmentMean SparseSegmentSum SparseToDense Split SplitV Sqrt Square SquaredDifference Squeeze StatelessIf StatelessWhile
  StaticRegexReplace StopGradient StridedSlice StringNGrams StringSplit StringToHashBucketFast Sub Sum Switch Tan Tanh TensorArrayCloseV3
  TensorArrayConcatV3 TensorArrayGatherV3 TensorArrayReadV3 TensorArrayScatterV3 TensorArraySizeV3 TensorArraySplitV3 TensorArrayV3 TensorArrayWriteV3
  TensorListConcat TensorListConcatV2 TensorListFromTensor TensorListGather TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack
  TensorListReserve TensorListResize TensorListScatter TensorListScatterV2 TensorListSetItem TensorListSplit TensorListStack TensorScatterUpdate Tile
  TopKV2 Transpose TruncatedNormal Unique UniqueV2 Unpack UpperBound Where Zeros ZerosLike _FusedConv2D _FusedMatMul
`.trim().split(/\s+/))

/** Operations that hand their first input on when nobody trains, asserts or watches. */
export const PASSING: ReadonlySet<string> = new Set(['Identity', 'IdentityN', 'ReadVariableOp', 'StopGradient', 'PreventGradient', 'CheckNumerics', 'CheckNumericsV2', 'Snapshot', 'EnsureShape', 'PlaceholderWithDefault', 'DebugIdentity', 'DebugIdentityV2', 'DebugIdentityV3', 'OptimizationBarrier', 'XlaSharding'])
export const CALLS: ReadonlySet<string> = new Set(['PartitionedCall', 'StatefulPartitionedCall'])
export const VARIABLES: ReadonlySet<string> = new Set(['VarHandleOp', 'VariableV2', 'Variable'])
/** The same operation under the name that TensorFlow.js knows. */
export const RENAMED: ReadonlyMap<string, string> = new Map([['If', 'StatelessIf'], ['While', 'StatelessWhile'], ['BatchMatMulV3', 'BatchMatMulV2'], ['Inv', 'Reciprocal']])
/** Operations whose bodies are functions, and the attributes that name them. */
export const BODIES: ReadonlyMap<string, readonly string[]> = new Map([['StatelessIf', ['then_branch', 'else_branch']], ['StatelessWhile', ['cond', 'body']]])
/** What TensorFlow.js runs only asynchronously: control flow, and outputs whose size only their values tell. */
const WAITING = /^(StatelessIf|StatelessWhile|EmptyTensorList|LoopCond|Switch|Merge|Enter|Exit|NextIteration|TensorArray\w+|TensorList\w+|NonMaxSuppression\w+|Where|ListDiff)$/
/** Operations that write what a later call would read. */
export const WRITES = /^(Assign\w*|Scatter(?!Nd$)\w+|Resource(?:Scatter|Apply|SparseApply)\w+|(?:Sparse)?Apply\w+)$/

export function isWaiting(op: string): boolean {
  return WAITING.test(op)
}

export function isRunnable(op: string): boolean {
  return BUILT_IN.has(op) || Object.hasOwn(ADDED, op)
}

type Run = (tf: typeof Tf, inputs: readonly Tf.Tensor[], attributes: Readonly<Record<string, unknown>>) => Tf.Tensor

/** Operations that TensorFlow.js lacks, said with those it has. */
const ADDED: Readonly<Record<string, Run>> = {
  // Keras's exact GELU.
  Erfc: (tf, [x]) => tf.sub(1, tf.erf(x!)),
  L2Loss: (tf, [x]) => tf.div(tf.sum(tf.square(x!)), 2),
  LogicalXor: (tf, [a, b]) => tf.logicalXor(a!, b!),
  MulNoNan: (tf, [a, b]) => tf.where(tf.equal(b!, 0), tf.zerosLike(a!), tf.mul(a!, b!)),
  // Embeddings: a lookup that reads its variable itself.
  ResourceGather: (tf, [params, indices], { batch_dims }) => tf.gather(params!, indices!, Number(batch_dims ?? 0), Number(batch_dims ?? 0)),
  ResourceGatherNd: (tf, [params, indices]) => tf.gatherND(params!, indices!),
  Rint: (tf, [x]) => tf.round(x!),
  Softsign: (tf, [x]) => tf.div(x!, tf.add(tf.abs(x!), 1)),
  Xdivy: (tf, [x, y]) => tf.divNoNan(x!, tf.where(tf.equal(x!, 0), tf.onesLike(y!), y!)),
  Xlogy: (tf, [x, y]) => tf.where(tf.equal(x!, 0), tf.zerosLike(x!), tf.mul(x!, tf.log(y!))),
}

/** Teaches them to this TensorFlow.js; again is harmless. */
export function addOperations(tf: typeof Tf): void {
  for (const [name, run] of Object.entries(ADDED)) tf.registerOp(name, node => tf.tidy(() => run(tf, node.inputs, node.attrs)))
}
