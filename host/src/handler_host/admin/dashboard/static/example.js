// A request that fits an operation, made from the JSON Schema of its input.

const CHAT = { messages: [{ role: "user", content: "Say hello." }] };
const MAX_DEPTH = 6;

// Return the text of a request for an operation of the overview; a chat if nothing is known of it.
export function exampleRequest(operation) {
  if (!operation || operation.name === "chat") return format(CHAT);
  const schema = operation.input_schema; // known after the first activation
  try {
    return format(schema ? exampleOf(schema, schema.$defs || {}, 0) : {});
  } catch {
    return format({}); // a plugin may send any JSON in place of a schema
  }
}

function format(value) {
  return JSON.stringify(value, null, 1).replace(/\n\s*/g, " ");
}

function exampleOf(schema, definitions, depth) {
  if (schema.$ref) {
    const target = definitions[schema.$ref.split("/").pop()];
    return target && depth < MAX_DEPTH ? exampleOf(target, definitions, depth + 1) : null;
  }
  if (schema.examples?.length) return schema.examples[0];
  for (const key of ["const", "default"]) if (key in schema) return schema[key];
  if (schema.enum) return schema.enum[0];
  const choices = schema.anyOf || schema.oneOf;
  if (choices) return exampleOf(choices.find((choice) => choice.type !== "null") || {}, definitions, depth + 1);
  switch (schema.type) {
    case "object":
      return exampleOfObject(schema, definitions, depth);
    case "array":
      return schema.minItems && depth < MAX_DEPTH ? [exampleOf(schema.items || {}, definitions, depth + 1)] : [];
    case "string":
      return "text";
    case "integer":
    case "number":
      return schema.minimum ?? 1;
    case "boolean":
      return false;
    default:
      return null;
  }
}

// Return an object with the required properties alone; of an object without any, the first property as a hint.
function exampleOfObject(schema, definitions, depth) {
  const properties = Object.entries(schema.properties || {});
  const required = properties.filter(([name]) => schema.required?.includes(name));
  const shown = required.length || depth ? required : properties.slice(0, 1);
  return Object.fromEntries(shown.map(([name, property]) => [name, exampleOf(property, definitions, depth + 1)]));
}
