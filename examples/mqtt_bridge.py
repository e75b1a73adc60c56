"""Forward masks to an MQTT broker: python examples/mqtt_bridge.py tcp://127.0.0.1:5570 mqtt://127.0.0.1:1883

Each stream's newest mask goes to streamseg/STREAM/mask, as the JSON document of docs/protocol.md: the
header's fields and run lengths as COCO has them. It is retained, so a new subscriber gets the last one at
once.
streamseg/bridge is "online", or "offline" when the bridge is gone. Needs: pip install paho-mqtt
"""

import sys
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt

from streamseg import subscribe
from streamseg.wire import encode_mask

endpoint, broker = sys.argv[1], urlsplit(sys.argv[2])
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.username_pw_set(broker.username, broker.password)
client.will_set("streamseg/bridge", "offline", retain=True)
client.on_connect = lambda *_: client.publish("streamseg/bridge", "online", retain=True)
client.connect_async(broker.hostname or "127.0.0.1", broker.port or 1883)
client.loop_start()  # a thread that connects, and connects again

with subscribe(endpoint) as masks:
    for mask in masks:
        if not client.is_connected():
            continue  # not connected: drop this mask, the next one is newer
        labels = masks.label_set(mask.label_set)
        _, document = encode_mask(mask, "raw", kind="rle", label_set=labels)
        sent = client.publish(f"streamseg/{mask.stream}/mask", document, retain=True)
        try:
            sent.wait_for_publish(
                5.0
            )  # one at a time; of the masks that come meanwhile only the newest is kept
        except RuntimeError:
            continue  # the connection was lost in between
