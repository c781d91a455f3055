/** AIOS's protocol-template language: read it, check data against it, decide whether an output fits an input. */
export { parseTemplate, type Field, type FieldType } from './template-language.ts'
export { judge, validate, withDefaults } from './template-check.ts'
export { compatible, compatibleFanIn, MUXED_INPUTS } from './template-fit.ts'
