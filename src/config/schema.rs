//! The JSON Schema of the file, made by the code that reads it (draft 2020-12).
//!
//! Settings describe themselves while they are read; what is declared is described by the schemas of the API's own bodies, which are handed in. A schema
//! helps whoever writes the file, in an editor; what contradicts what, only reading the file finds.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::declared::{FILE_SUFFIX, FROM_FILES, ISSUERS, REMOVABLE};
use super::descriptions::DESCRIPTIONS;
use super::reader::{ANY_NAME, Kind, Outline, Reader};
use super::{Config, refuse_ambient_proxy};

/// The bodies by which issuers and clients are registered.
const ISSUER: &str = "NewIssuer";
const CLIENT: &str = "ClientMetadata";
const COMPONENTS: &str = "#/components/schemas/";

/// Every setting there is, in the order in which they are read.
fn outlines() -> Vec<Outline> {
    let mut reader = Reader::outlining();
    drop(Config::read(&mut reader));
    refuse_ambient_proxy(&mut reader, &[]);
    reader.into_outlines()
}

/// The schema of the file. `components` are the schemas of the API's `OpenAPI` document.
pub fn schema(components: &Value) -> Value {
    let mut root = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of logoutd",
        "type": "object",
        "additionalProperties": false,
        "properties": {},
    });
    for outline in outlines() {
        put(&mut root, &outline.path.split('.').collect::<Vec<_>>(), described(&outline));
    }
    let of_issuers = json!({
        "description": "Issuers that are registered from here, and their clients. Secrets may be kept in files: said as the member's name with _file.",
        "type": "array",
        "items": { "$ref": format!("#/$defs/{ISSUER}") },
    });
    put(&mut root, &[ISSUERS], of_issuers);
    let definitions = definitions(components);
    if let Some(root) = root.as_object_mut() {
        root.insert("$defs".to_owned(), Value::Object(definitions));
    }
    root
}

/// Puts a setting's schema where its path leads.
fn put(table: &mut Value, path: &[&str], setting: Value) {
    let [name, inner @ ..] = path else { return };
    let Some(table) = table.as_object_mut() else { return };
    let empty = || json!({ "type": "object", "additionalProperties": false, "properties": {} });
    if *name == ANY_NAME {
        // One table for each name that somebody thinks of.
        table.remove("properties");
        let any = table.entry("additionalProperties").or_insert(Value::Bool(false));
        if !any.is_object() {
            *any = empty();
        }
        return put(any, inner, setting);
    }
    let Some(members) = table.get_mut("properties").and_then(Value::as_object_mut) else { return };
    match inner {
        [] => drop(members.insert((*name).to_owned(), setting)),
        _ => put(members.entry(*name).or_insert_with(empty), inner, setting),
    }
}

fn described(outline: &Outline) -> Value {
    let mut schema = match &outline.kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Truth => json!({ "type": "boolean" }),
        Kind::List => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::Number { bounds: None } => json!({ "type": "integer" }),
        Kind::Number { bounds: Some((least, most)) } => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Kind::Words(words) => json!({ "type": "string", "enum": words }),
    };
    let description = DESCRIPTIONS.iter().find(|(path, _)| *path == outline.path).map(|(_, description)| *description);
    if let Some(members) = schema.as_object_mut() {
        members.extend(description.map(|description| ("description".to_owned(), description.into())));
        members.extend(outline.default.as_ref().and_then(|shown| default(&outline.kind, shown)).map(|value| ("default".to_owned(), value)));
    }
    schema
}

/// A default as the file would say it, from how it is shown.
fn default(kind: &Kind, shown: &str) -> Option<Value> {
    match kind {
        // How nothing is shown, and what is not.
        Kind::Text if matches!(shown, "(none)" | "(hidden)") => None,
        Kind::Text | Kind::Words(_) => Some(shown.into()),
        Kind::Truth => shown.parse::<bool>().ok().map(Value::from),
        Kind::Number { .. } => shown.parse::<i64>().ok().map(Value::from),
        Kind::List if shown == "(none)" => Some(json!([])),
        Kind::List => Some(shown.split(", ").collect()),
    }
}

/// The schemas of what is declared, and of all that they name.
fn definitions(components: &Value) -> Map<String, Value> {
    let mut found = Map::new();
    let mut wanted: Vec<String> = vec![ISSUER.to_owned(), CLIENT.to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        let Some(component) = components.get(&name).filter(|_| seen.insert(name.clone())) else { continue };
        let mut definition = component.clone();
        in_the_file(&mut definition, &mut wanted);
        found.insert(name, definition);
    }
    if let Some(members) = found.get_mut(ISSUER).and_then(|issuer| issuer.pointer_mut("/properties")).and_then(Value::as_object_mut) {
        let clients = json!({ "description": "Its clients.", "type": "array", "items": { "$ref": format!("#/$defs/{CLIENT}") } });
        members.insert("clients".to_owned(), clients);
    }
    if let Some(client) = found.get_mut(CLIENT).and_then(Value::as_object_mut) {
        client.insert("required".to_owned(), json!(["client_id"]));
    }
    found
}

/// A schema of the API's as it is for the file, which has no null, refuses what is unknown, and may name files.
fn in_the_file(schema: &mut Value, wanted: &mut Vec<String>) {
    match schema {
        Value::Array(schemas) => schemas.iter_mut().for_each(|schema| in_the_file(schema, wanted)),
        Value::Object(members) => {
            without_null(members);
            if let Some(Value::String(reference)) = members.get_mut("$ref")
                && let Some(name) = reference.strip_prefix(COMPONENTS).map(str::to_owned)
            {
                *reference = format!("#/$defs/{name}");
                wanted.push(name);
            }
            members.values_mut().for_each(|member| in_the_file(member, wanted));
            if let Some(Value::Object(properties)) = members.get_mut("properties") {
                with_files(properties);
                members.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn without_null(members: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = members.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            members.insert("type".to_owned(), only);
        }
    }
    for choice in ["oneOf", "anyOf"] {
        let Some(Value::Array(schemas)) = members.get_mut(choice) else { continue };
        schemas.retain(|schema| schema.get("type").is_none_or(|kind| kind != "null"));
        if let [Value::Object(only)] = schemas.as_slice() {
            let only = only.clone();
            members.remove(choice);
            members.extend(only.into_iter().filter(|(name, _)| name != "description").collect::<Vec<_>>());
        }
    }
}

fn with_files(properties: &mut Map<String, Value>) {
    for member in REMOVABLE {
        if let Some(schema) = properties.get_mut(member) {
            let description =
                schema.get("description").and_then(Value::as_str).unwrap_or_default().replace("null removes", "false removes");
            if let Some(members) = schema.as_object_mut() {
                members.remove("description");
            }
            *schema = json!({ "description": description, "anyOf": [schema.take(), { "const": false, "description": "Removes it." }] });
        }
    }
    for member in FROM_FILES {
        if properties.contains_key(member) {
            let description = format!("The path of a file that holds {member}, instead of {member}.");
            properties.insert(format!("{member}{FILE_SUFFIX}"), json!({ "type": "string", "description": description }));
        }
    }
}

/// The members beside which one stands that is unknown, by its JSON pointer in a declared issuer or client.
pub fn members_beside<'a>(schema: &'a Value, of: Registered, pointer: &str) -> Vec<&'a str> {
    let root = match of {
        Registered::Issuer => ISSUER,
        Registered::Client => CLIENT,
    };
    let outer = pointer.rsplit_once('/').map_or("", |(outer, _)| outer);
    let start = schema.pointer(&format!("/$defs/{root}"));
    let table = outer.split('/').skip(1).try_fold(start, |table, name| {
        let member = resolved(schema, table?)?.get("properties")?.get(name)?;
        Some(Some(member))
    });
    let properties = table.flatten().and_then(|table| resolved(schema, table)?.get("properties")?.as_object());
    properties.map(|properties| properties.keys().map(String::as_str).collect()).unwrap_or_default()
}

/// Which of the two kinds of registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// An issuer.
    Issuer,
    /// A client.
    Client,
}

fn resolved<'a>(schema: &'a Value, table: &'a Value) -> Option<&'a Value> {
    match table.get("$ref").and_then(Value::as_str) {
        Some(reference) => schema.pointer(reference.strip_prefix('#')?),
        None => Some(table),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_described_in_a_line_and_nothing_else_is() {
        let settings: BTreeSet<String> = outlines().into_iter().map(|outline| outline.path).collect();
        let described: BTreeSet<String> = DESCRIPTIONS.iter().map(|(path, _)| (*path).to_owned()).collect();
        let missing: Vec<_> = settings.difference(&described).collect();
        assert!(missing.is_empty(), "say in src/config/descriptions.rs what these mean: {missing:?}");
        let strange: Vec<_> = described.difference(&settings).collect();
        assert!(strange.is_empty(), "src/config/descriptions.rs describes what is no setting: {strange:?}");
        assert!(DESCRIPTIONS.iter().all(|(_, text)| !text.is_empty() && !text.contains('\n')));
    }

    #[test]
    fn a_setting_s_schema_says_what_the_reader_asks_for() {
        let schema = schema(&json!({}));
        let setting = |pointer: &str| schema.pointer(pointer).unwrap_or_else(|| panic!("{pointer} in {schema:#}"));
        let body = setting("/properties/http/properties/body_bytes_max");
        assert_eq!(
            (&body["type"], &body["minimum"], &body["maximum"], &body["default"]),
            (&json!("integer"), &json!(1024), &json!(64 << 20), &json!(4 << 20))
        );
        assert_eq!(setting("/properties/log/properties/format/enum"), &json!(["json", "text"]));
        assert_eq!(setting("/properties/dev/default"), &json!(false));
        assert_eq!(setting("/properties/network/properties/allow/default"), &json!([]));
        assert_eq!(setting("/properties/delivery/properties/host_rate_per_s/maximum"), &json!(10_000));
        assert_eq!(schema.pointer("/properties/public_url/default"), None);
        let check = setting("/properties/check/additionalProperties/properties");
        assert_eq!((&check["when_unavailable"]["default"], &check["scopes"]["type"]), (&json!("closed"), &json!("array")));
    }

    #[test]
    fn what_the_api_says_of_a_body_becomes_what_the_file_may_say() {
        let components = json!({
            "NewIssuer": {"type": "object", "required": ["id"], "properties": {
                "id": {"$ref": "#/components/schemas/IssuerId"},
                "ca_pem": {"type": ["string", "null"]},
                "revocation": {"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/EndpointTerms", "description": "theirs"}], "description": "ours"}}},
            "ClientMetadata": {"type": "object", "properties": {"client_id": {"type": "string"}, "client_secret": {"type": "string", "description": "d"}}},
            "EndpointTerms": {"type": "object", "properties": {"client_secret": {"type": "string"}, "endpoint": {"type": "string"}}},
            "IssuerId": {"type": "string"},
            "Unused": {"type": "string"},
        });
        let schema = schema(&components);
        let definitions = &schema["$defs"];
        assert_eq!(definitions.as_object().unwrap().len(), 4);
        assert_eq!(definitions["NewIssuer"]["properties"]["ca_pem"], json!({"type": "string"}));
        assert_eq!(definitions["NewIssuer"]["properties"]["ca_pem_file"]["type"], json!("string"));
        assert_eq!(definitions["NewIssuer"]["properties"]["revocation"], json!({"$ref": "#/$defs/EndpointTerms", "description": "ours"}));
        assert_eq!(definitions["EndpointTerms"]["additionalProperties"], json!(false));
        assert_eq!(definitions["ClientMetadata"]["properties"]["client_secret"]["anyOf"][1]["const"], json!(false));
        assert_eq!(definitions["ClientMetadata"]["required"], json!(["client_id"]));
        assert_eq!(
            members_beside(&schema, Registered::Issuer, "/revocation/endpiont"),
            ["client_secret", "client_secret_file", "endpoint"]
        );
        assert_eq!(members_beside(&schema, Registered::Client, "/nothing/here"), Vec::<&str>::new());
    }
}
