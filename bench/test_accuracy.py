"""Accuracy of every variant, and of the baselines that the profile names, on every task, item by item; or perplexity."""

from bitzones.evaluation import accuracy


def test_accuracy(cell, session, answering, task):
    record = cell(session.scored[task].cell_kind, answering, detail=task)
    record.measure(
        lambda: session.model(answering),
        lambda model: session.hardware.at_half(
            session.task_batch(task),
            lambda batch: accuracy.measure(model, session.tokenizer, session.asked[task], answering, batch, record.progress),
        ),
    )
