"""Accuracy of every variant on every task, item by item."""

from bitzones.measure import accuracy


def test_accuracy(cell, session, variant, task):
    record = cell("accuracy", variant, detail=task)
    record.measure(
        lambda: (session.model(variant), session.task(task)),
        lambda prepared: accuracy.measure(prepared[0], session.tokenizer, prepared[1], variant, session.task_batch(task), record.progress),
    )
