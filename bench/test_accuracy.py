"""Accuracy of every variant on every task, item by item."""

from bitzones.measure import accuracy


def test_accuracy(cell, session, variant, task):
    record = cell("accuracy", variant, detail=task)
    record.measure(
        lambda: session.model(variant),
        lambda model: accuracy.measure(model, session.tokenizer, session.asked[task], variant, session.task_batch(task), record.progress),
    )
