//! What is said when everything runs: addresses, credentials, and what to try.

use super::plan::{Plan, Unit};
use crate::database::Account;
use crate::terminal::{Colour, paint};

/// The e-mail address of the administrator that `up` makes.
pub const ADMINISTRATOR: &str = "admin@persona.local";

/// Prints addresses, credentials and three commands to try.
pub fn greet(plan: &Plan, database: &Account, password: &str) {
    println!("\n{}\n", paint(Colour::Green, "The platform is running."));
    for unit in &plan.edge {
        println!("  {:<19} http://{}   internal http://{}", unit.name, unit.public, unit.internal);
    }
    for unit in plan.identity.iter().chain(&plan.subscription) {
        println!("  {:<19} gRPC {}   internal http://{}", unit.name, unit.public, unit.internal);
    }
    let stand_in = if plan.stub.is_some() { "   (a stand-in)" } else { "" };
    println!("  {:<19} {}{stand_in}", "core-manager", plan.core_manager);
    if let Some(catcher) = &plan.mail_catcher {
        println!("  {:<19} http://{}   (what is mailed, delivered to nobody)", "mails", catcher.public);
    }
    if let Some(edge) = plan.edge.first() {
        println!("  {:<19} http://{}/console", "console", edge.public);
    }
    let Account { host, port, schema, .. } = database;
    println!("  {:<19} {host}:{port}, schema {schema}", "database");
    println!("  {:<19} {ADMINISTRATOR}   password {password}", "administrator");
    if let Some(edge) = plan.edge.first() {
        println!("\nThree things to try in another terminal:\n{}", commands(edge, password));
    }
    println!(
        "All of this stands in target/up.env, and what each process was told in target/up, as long as it is true."
    );
    println!("Ctrl-C stops everything.\n");
}

/// They can be pasted again and again: each registration is another account.
fn commands(edge: &Unit, password: &str) -> String {
    let api = format!("http://{}/api/v1", edge.public);
    format!(
        r#"
# a new account
curl -sS {api}/auth/register -H 'Content-Type: application/json' \
  -d '{{"email":"you-'$(date +%s)'@example.com","password":"correct horse battery staple","client_id":"demo"}}'

# sign in as the administrator, then a request through the gateway
TOKEN=$(curl -sS {api}/auth/login -H 'Content-Type: application/json' \
  -d '{{"email":"{ADMINISTRATOR}","password":"{password}"}}' | sed 's/.*"access_token":"\([^"]*\)".*/\1/')
curl -sS {api}/personas/instances -H "Authorization: Bearer $TOKEN"

# the whole story in a minute
cargo xtask demo
"#
    )
}

/// The content of `target/up.env`.
pub fn facts_of(plan: &Plan, password: &str) -> String {
    let mut facts = String::new();
    let mut note = |name: &str, value: &str| facts += &format!("{name}={value}\n");
    for (number, edge) in (1..).zip(&plan.edge) {
        note(&numbered("EDGE", number), &format!("http://{}", edge.public));
        note(&numbered("EDGE_INTERNAL", number), &format!("http://{}", edge.internal));
    }
    for (number, unit) in (1..).zip(&plan.identity) {
        note(&numbered("IDENTITY_GRPC", number), &unit.public.to_string());
        note(&numbered("IDENTITY_INTERNAL", number), &format!("http://{}", unit.internal));
    }
    for (number, unit) in (1..).zip(&plan.subscription) {
        note(&numbered("SUBSCRIPTION_GRPC", number), &unit.public.to_string());
        note(&numbered("SUBSCRIPTION_INTERNAL", number), &format!("http://{}", unit.internal));
    }
    note("CORE_MANAGER_URL", &plan.core_manager);
    if let Some(catcher) = &plan.mail_catcher {
        note("MAIL_CATCHER", &format!("http://{}", catcher.public));
    }
    note("JWT_SECRET_KEY", &plan.jwt_secret);
    note("INTERNAL_GRPC_TOKEN", &plan.internal_token);
    note("ADMIN_EMAIL", ADMINISTRATOR);
    note("ADMIN_PASSWORD", password);
    facts
}

/// EDGE, EDGE2, EDGE3 …
fn numbered(name: &str, number: usize) -> String {
    if number == 1 { name.to_owned() } else { format!("{name}{number}") }
}
