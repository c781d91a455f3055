import assert from 'node:assert/strict'
import { create } from '@bufbuild/protobuf'
import { roundActivationsToInt8 } from '../../../src/llm/onnx/int8-activations.ts'
import { attributeOf, CONTRIB, integerOf, intAttribute, node } from '../../../src/llm/onnx/node.ts'
import { AttributeProto_AttributeType, AttributeProtoSchema, FunctionProtoSchema, GraphProtoSchema, ModelProtoSchema } from '../../../src/llm/onnx/onnx-pb.js'

describe('activations rounded to int8', () => {
  const product = (level?: number) => node('MatMulNBits', ['x', 'codes', 'scales'], ['y'], [intAttribute('bits', 4), ...level === undefined ? [] : [intAttribute('accuracy_level', level)]], CONTRIB)

  it('are asked of every product that does not do so, in bodies and functions too, and of nothing else', () => {
    const body = create(GraphProtoSchema, { node: [product(0)] })
    const branch = node('If', ['past'], ['y'], [create(AttributeProtoSchema, { name: 'then_branch', type: AttributeProto_AttributeType.GRAPH, g: body })])
    const model = create(ModelProtoSchema, { graph: create(GraphProtoSchema, { node: [product(), product(4), branch, node('MatMul', ['a', 'b'], ['c'])] }), functions: [create(FunctionProtoSchema, { node: [product(1)] })] })
    assert.equal(roundActivationsToInt8(model), 3)
    const [unset, already, , plain] = model.graph!.node
    const products = [unset!, already!, body.node[0]!, model.functions[0]!.node[0]!]
    assert.deepEqual(products.map(one => integerOf(one, 'accuracy_level')), [4, 4, 4, 4])
    assert.deepEqual(products.map(one => integerOf(one, 'bits')), [4, 4, 4, 4])
    assert.equal(attributeOf(plain!, 'accuracy_level'), undefined)
    assert.equal(roundActivationsToInt8(model), 0)
  })
})
