//! A make-believe workflow: so many steps of so many milliseconds, then the outcome that its parameters ask for.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;

const MAX_STEPS: u64 = 1000;

/// Runs the workflow of a `start_workflow` message and reports each step.
pub async fn run(start: Value, sender: mpsc::Sender<String>) {
    let parameters = &start["data"]["parameters"];
    let steps = parameters["steps"].as_u64().unwrap_or(5).clamp(1, MAX_STEPS);
    let pause = Duration::from_millis(parameters["step_ms"].as_u64().unwrap_or(200));
    for step in 1..=steps {
        let progress = (step - 1) as f64 / steps as f64;
        let data = json!({ "status": "in_progress", "step": format!("step {step} of {steps}"), "progress": progress, "result": null });
        if report(&start, data, &sender).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
    }
    let data = if parameters["outcome"] == "failed" {
        let progress = (steps - 1) as f64 / steps as f64;
        json!({ "status": "failed", "step": "failed", "progress": progress, "result": { "error": "failed as asked" } })
    } else {
        let result =
            json!({ "workflow_type": start["data"]["workflow_type"], "result": parameters["result"] });
        json!({ "status": "completed", "step": "done", "progress": 1.0, "result": result })
    };
    // A socket that has closed meanwhile has nobody to tell.
    let _ = report(&start, data, &sender).await;
}

async fn report(
    start: &Value,
    data: Value,
    sender: &mpsc::Sender<String>,
) -> Result<(), mpsc::error::SendError<String>> {
    let status = json!({ "type": "workflow_status", "id": Uuid::now_v7(), "correlation_id": start["id"], "data": data });
    sender.send(status.to_string()).await
}
