"""Accuracy of every variant, and of the rivals that the profile names, on every task, item by item."""

from bitzones.evaluation import accuracy


def test_accuracy(cell, session, answering, task):
    record = cell("accuracy", answering, detail=task)
    record.measure(
        lambda: session.model(answering),
        lambda model: session.hardware.at_half(
            session.task_batch(task),
            lambda batch: accuracy.measure(model, session.tokenizer, session.asked[task], answering, batch, record.progress),
        ),
    )
