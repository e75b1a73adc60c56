"""Forward masks to Kafka: python examples/kafka_bridge.py tcp://127.0.0.1:5570 broker:9092 [TOPIC]

A record for each mask: the stream is its key, so that a stream keeps its order; its time is the frame's; its
headers are stream, run, epoch, seq, n, label_set and engine; its value is the JSON document of
docs/protocol.md, with run lengths as COCO has them. Needs: pip install confluent-kafka
"""

import sys

from confluent_kafka import Producer

from streamseg import subscribe
from streamseg.wire import encode_mask

endpoint, brokers = sys.argv[1:3]
topic = sys.argv[3] if len(sys.argv) > 3 else "streamseg.masks"
producer = Producer(
    {
        "bootstrap.servers": brokers,
        "message.timeout.ms": 5000,  # an older mask is of no use
        "queue.buffering.max.messages": 100,
        "compression.type": "lz4",
        "linger.ms": 5,
    }
)
lost = 0

with subscribe(endpoint) as masks:
    for mask in masks:
        labels = masks.label_set(mask.label_set)
        _, document = encode_mask(mask, "raw", kind="rle", label_set=labels)
        names = ("stream", "run", "epoch", "seq", "n", "label_set", "engine")
        try:
            producer.produce(
                topic,
                document,
                key=mask.stream,
                headers=[(name, str(getattr(mask, name)).encode()) for name in names],
                timestamp=mask.captured_unix_ns // 1_000_000,
            )
        except BufferError:  # the brokers are slower than the stream, or away
            lost += 1
            print(f"{lost} masks left out: the queue to Kafka is full", file=sys.stderr)
        producer.poll(0)
