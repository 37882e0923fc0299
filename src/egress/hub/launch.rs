//! A job as it was asked for: parsed strictly, put into the call that is judged, and written anew for the Hub.
//!
//! What is forwarded is made of what was judged and of nothing else, so that no field, no second spelling of one and no
//! number that two readers see differently gets past the policy.

use serde_json::{Map, Value, json};

use super::request::Refused;
use crate::model::{CallId, parse_json};

/// The label by which a job is found again.
pub const LABEL: &str = "weir-call";

/// Bounds of a launch.
const WORDS: usize = 1024;
const TEXT_BYTES: usize = 256 << 10;
const PAIRS: usize = 128;

/// Secrets that hold a token of the Hub: the only ones for which the gate has a value.
pub const TOKENS: &[&str] = &["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN"];

/// One launch, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The user or organisation that pays.
    pub namespace: String,
    /// The machine.
    pub flavor: String,
    /// The Docker image.
    pub image: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Seconds after which the Hub ends it; `None` where the client left it out.
    pub timeout_s: Option<u64>,
    /// Names of secrets; their values are never read.
    pub secrets: Vec<String>,
    /// Environment variables.
    pub environment: Map<String, Value>,
    /// Labels of the agent's own.
    pub labels: Map<String, Value>,
    volumes: Vec<Value>,
    ports: Vec<Value>,
    ssh: bool,
    network: bool,
}

/// Reads the body of a launch in `namespace`.
///
/// # Errors
/// [`Refused`] for anything that is not one bounded launch with known fields.
pub fn read(namespace: &str, body: &[u8]) -> Result<Launch, Refused> {
    let instead = "send the fields of a launch as huggingface_hub does";
    let value =
        parse_json(body).map_err(|fault| Refused::new(format!("the launch cannot be read: {fault}"), instead))?;
    let Value::Object(fields) = value else { return Err(Refused::new("a launch is a JSON object", instead)) };
    known(&fields)?;
    let mut command = words(&fields, "command")?;
    if command.is_empty() {
        return Err(Refused::new(
            "a launch without a command runs whatever the image contains",
            "name the program in `command`",
        ));
    }
    command.extend(words(&fields, "arguments")?);
    if command.len() > WORDS || command.iter().map(String::len).sum::<usize>() > TEXT_BYTES {
        return Err(Refused::new("the command is too long", "put the program into a repository"));
    }
    let launch = Launch {
        namespace: namespace.to_owned(),
        flavor: flavor(&fields)?,
        image: image(&fields)?,
        command,
        timeout_s: timeout(&fields)?,
        secrets: texts(&fields, "secrets")?.into_iter().map(|(name, _)| name).collect(),
        environment: environment(&fields)?,
        labels: labels(&fields)?,
        volumes: list(&fields, "volumes")?,
        ports: ports(&fields)?,
        ssh: ssh(&fields)?,
        network: fields.get("network").is_some_and(is_set),
    };
    Ok(launch)
}

const FIELDS: &[&str] = &[
    "command",
    "arguments",
    "environment",
    "flavor",
    "secrets",
    "timeoutSeconds",
    "labels",
    "volumes",
    "expose",
    "ssh",
    "network",
    "resourceGroupId",
    "dockerImage",
    "spaceId",
    "attempts",
];

/// Refuses fields that are not known, and those that the gate never passes on.
fn known(fields: &Map<String, Value>) -> Result<(), Refused> {
    if let Some(field) = fields.keys().find(|field| !FIELDS.contains(&field.as_str())) {
        let shown: String = field.chars().filter(char::is_ascii_graphic).take(40).collect();
        return Err(Refused::new(format!("a launch has no field `{shown}` that the gate can judge"), "leave it out"));
    }
    if fields.get("attempts").is_some_and(|attempts| attempts.as_u64() != Some(1)) {
        return Err(Refused::new("each further attempt costs as much as the first", "launch again after a failure"));
    }
    if fields.get("resourceGroupId").is_some_and(is_set) {
        return Err(Refused::new("the gate judges no resource groups", "leave `resourceGroupId` out"));
    }
    Ok(())
}

/// True for anything but the ways to say nothing.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => true,
    }
}

fn text<'f>(fields: &'f Map<String, Value>, name: &str) -> Result<Option<&'f str>, Refused> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if is_plain(text) && text.len() <= 512 => Ok(Some(text)),
        Some(_) => Err(Refused::new(format!("`{name}` is one plain text"), "write it as a string")),
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn flavor(fields: &Map<String, Value>) -> Result<String, Refused> {
    let refused = || Refused::new("a launch without `flavor` runs on a machine that nobody named", "name a flavor");
    text(fields, "flavor")?.map(str::to_owned).ok_or_else(refused)
}

fn image(fields: &Map<String, Value>) -> Result<String, Refused> {
    if fields.get("spaceId").is_some_and(is_set) {
        return Err(Refused::new(
            "the image of a Space changes whenever its owner commits",
            "name a Docker image that the policy lists",
        ));
    }
    let refused = || Refused::new("the launch names no image", "name a Docker image that the policy lists");
    text(fields, "dockerImage")?.map(str::to_owned).ok_or_else(refused)
}

/// Seconds: a whole number, and nothing that a reader could round, wrap or take for none.
fn timeout(fields: &Map<String, Value>) -> Result<Option<u64>, Refused> {
    match fields.get("timeoutSeconds") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(seconds) if seconds > 0 && seconds <= u64::from(u32::MAX) => Ok(Some(seconds)),
            _ => Err(Refused::new("`timeoutSeconds` is a whole number of seconds above zero", "write it so")),
        },
    }
}

fn list(fields: &Map<String, Value>, name: &str) -> Result<Vec<Value>, Refused> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) if items.len() <= WORDS => Ok(items.clone()),
        Some(_) => Err(Refused::new(format!("`{name}` is a list"), "write it as one")),
    }
}

fn words(fields: &Map<String, Value>, name: &str) -> Result<Vec<String>, Refused> {
    let refused = || Refused::new(format!("`{name}` is a list of words"), "write each word as a string");
    let one = |value: Value| match value {
        Value::String(word) if !word.contains('\0') => Ok(word),
        _ => Err(refused()),
    };
    list(fields, name)?.into_iter().map(one).collect()
}

fn texts(fields: &Map<String, Value>, name: &str) -> Result<Vec<(String, String)>, Refused> {
    let refused = || Refused::new(format!("`{name}` is a map of plain names to texts"), "write it so");
    let map = match fields.get(name) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(map)) if map.len() <= PAIRS => map,
        Some(_) => return Err(refused()),
    };
    let mut bytes = 0;
    let mut pairs = Vec::new();
    for (key, value) in map {
        let plain = key.len() <= 128 && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        let value = match value {
            Value::String(text) if !text.contains('\0') => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            _ => return Err(refused()),
        };
        bytes += key.len() + value.len();
        if key.is_empty() || !plain || bytes > TEXT_BYTES {
            return Err(refused());
        }
        pairs.push((key.clone(), value));
    }
    Ok(pairs)
}

/// The environment. A token there would be shown to whoever looks at the job.
fn environment(fields: &Map<String, Value>) -> Result<Map<String, Value>, Refused> {
    let pairs = texts(fields, "environment")?;
    if pairs.iter().any(|(name, _)| TOKENS.contains(&name.to_ascii_uppercase().as_str())) {
        return Err(Refused::new("a token in the environment is shown to whoever looks at the job", "use `secrets`"));
    }
    Ok(pairs.into_iter().map(|(name, value)| (name, Value::String(value))).collect())
}

fn labels(fields: &Map<String, Value>) -> Result<Map<String, Value>, Refused> {
    let pairs = texts(fields, "labels")?;
    if pairs.iter().any(|(name, _)| name.to_ascii_lowercase().starts_with("weir")) {
        return Err(Refused::new("labels that begin with `weir` are the gate's own", "use another name"));
    }
    Ok(pairs.into_iter().map(|(name, value)| (name, Value::String(value))).collect())
}

fn ports(fields: &Map<String, Value>) -> Result<Vec<Value>, Refused> {
    match fields.get("expose") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(map)) => {
            let lists = ["ports", "portsPublic"];
            let mut all: Vec<Value> = Vec::new();
            for name in lists {
                all.extend(list(map, name)?);
            }
            let whole = all.is_empty() && map.keys().any(|key| !lists.contains(&key.as_str()));
            if whole { Err(Refused::new("`expose` has fields that are not known", "leave it out")) } else { Ok(all) }
        }
        Some(_) => Err(Refused::new("`expose` is an object", "leave it out")),
    }
}

fn ssh(fields: &Map<String, Value>) -> Result<bool, Refused> {
    match fields.get("ssh") {
        None | Some(Value::Null | Value::Bool(false)) => Ok(false),
        Some(Value::Object(map)) if map.len() <= 1 => match map.get("enabled") {
            None | Some(Value::Bool(false)) => Ok(!map.is_empty() && !map.contains_key("enabled")),
            Some(_) => Ok(true),
        },
        Some(_) => Ok(true),
    }
}

impl Launch {
    /// What the policy judges. `live` is the price that the Hub gives now, micro-USD per hour.
    #[must_use]
    pub fn args(&self, timeout_s: u64, live: Option<u64>) -> Map<String, Value> {
        let mut args = Map::new();
        let fields = json!({
            "image": self.image, "command": self.command, "timeout_s": timeout_s, "namespace": self.namespace,
            "secrets": self.secrets, "environment": self.environment, "volumes": self.volumes, "ports": self.ports,
            "ssh": self.ssh, "network": self.network, "schedule": null, "labels": self.labels,
        });
        if let Value::Object(fields) = fields {
            args.extend(fields);
        }
        if let Some(live) = live {
            args.insert("live_micro_usd_per_hour".into(), live.into());
        }
        args
    }

    /// The body for the Hub: only for a launch that was permitted, which has no volume, port, network or shell.
    /// `token` is the value of every secret.
    #[must_use]
    pub fn body(&self, timeout_s: u64, call: &CallId, token: Option<&str>) -> Value {
        let mut labels = self.labels.clone();
        labels.insert(LABEL.into(), call.as_str().into());
        let mut body = json!({
            "command": self.command, "arguments": [], "environment": self.environment, "flavor": self.flavor,
            "timeoutSeconds": timeout_s, "labels": labels, "dockerImage": self.image,
        });
        let secrets: Map<String, Value> =
            self.secrets.iter().filter_map(|name| Some((name.clone(), Value::from(token?)))).collect();
        if let (Some(body), false) = (body.as_object_mut(), secrets.is_empty()) {
            body.insert("secrets".into(), Value::Object(secrets));
        }
        body
    }

    /// The first secret for which the gate has no value.
    #[must_use]
    pub fn unheld(&self) -> Option<&str> {
        self.secrets.iter().map(String::as_str).find(|name| !TOKENS.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;

    fn with(field: &str, value: Value) -> Result<Launch, Refused> {
        let mut body = json!({"command": ["python", "t.py"], "arguments": [], "environment": {}, "flavor": "t4-small",
            "timeoutSeconds": 60, "dockerImage": "python:3.12", "labels": {"name": "x"}});
        body.as_object_mut().unwrap().insert(field.into(), value);
        read("team", body.to_string().as_bytes())
    }

    #[test]
    fn arguments_are_judged_with_the_command_that_they_belong_to() {
        let launch = with("arguments", json!(["--all"])).unwrap();
        assert_eq!(launch.command, ["python", "t.py", "--all"]);
        let body = launch.body(60, &Name::new("c1").unwrap(), None);
        assert_eq!((&body["command"], &body["arguments"]), (&json!(["python", "t.py", "--all"]), &json!([])));
        assert_eq!(body["labels"], json!({"name": "x", "weir-call": "c1"}));
        assert!(with("command", json!([])).unwrap_err().what.contains("image contains"));
    }

    #[test]
    fn a_timeout_is_a_whole_number_of_seconds_or_absent() {
        for odd in
            [json!(0), json!(-1), json!(60.0), json!(1e9), json!("60"), json!(true), json!([60]), json!(1u64 << 40)]
        {
            assert!(with("timeoutSeconds", odd.clone()).is_err(), "{odd}");
        }
        assert_eq!(with("timeoutSeconds", json!(90_000)).unwrap().timeout_s, Some(90_000));
        assert_eq!(with("timeoutSeconds", Value::Null).unwrap().timeout_s, None);
        let twice = br#"{"command":["a"],"flavor":"f","dockerImage":"i","timeoutSeconds":1,"timeoutSeconds":9}"#;
        assert!(read("team", twice).unwrap_err().what.contains("duplicate key"));
    }

    #[test]
    fn ways_out_of_a_job_are_seen_by_the_policy_or_refused() {
        let args = |field: &str, value: Value| Value::Object(with(field, value).unwrap().args(60, None));
        assert_eq!(args("ssh", json!({"enabled": true}))["ssh"], json!(true));
        assert_eq!(args("ssh", json!({"enabled": 1}))["ssh"], json!(true));
        assert_eq!(args("ssh", json!({"enabled": false}))["ssh"], json!(false));
        assert_eq!(args("network", json!({"group": "g"}))["network"], json!(true));
        assert_eq!(args("expose", json!({"ports": [], "portsPublic": [80]}))["ports"], json!([80]));
        assert_eq!(args("volumes", json!([{"type": "bucket"}]))["volumes"], json!([{"type": "bucket"}]));
        for (field, value) in [
            ("spaceId", json!("a/b")),
            ("attempts", json!(3)),
            ("resourceGroupId", json!("g")),
            ("schedule", json!("* * * * *")),
            ("environment", json!({"hf_token": "x"})),
            ("labels", json!({"weir-call": "y"})),
            ("dockerImage", Value::Null),
            ("flavor", Value::Null),
            ("flavor", json!(["a"])),
        ] {
            assert!(with(field, value).is_err(), "{field}");
        }
    }

    #[test]
    fn the_value_of_a_secret_is_never_kept() {
        let launch = with("secrets", json!({"HF_TOKEN": "hf_agents_own"})).unwrap();
        assert!(!format!("{launch:?}").contains("hf_agents_own"));
        let body = launch.body(60, &Name::new("c").unwrap(), Some("hf_of_the_job"));
        assert_eq!(body["secrets"], json!({"HF_TOKEN": "hf_of_the_job"}));
        assert_eq!(launch.unheld(), None);
        assert_eq!(with("secrets", json!({"WANDB_API_KEY": "x"})).unwrap().unheld(), Some("WANDB_API_KEY"));
    }
}
