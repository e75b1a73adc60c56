"""Masks as sensor_msgs/Image in ROS 2: python bridge.py tcp://127.0.0.1:5570

Publishes /streamseg/STREAM/mask (mono8 labels, stamped with the frame's time), best effort and one deep, as
sensor data is. Needs rclpy, which comes with a ROS 2 installation and not from PyPI: this file has been
compiled, not run; what it sends is made in fields.py, which is tested.
"""

import sys

import rclpy
from fields import image_fields, stamp_of, topic_of
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from streamseg import subscribe


def main() -> None:
    rclpy.init()
    node = Node("streamseg")
    publishers = {}
    with subscribe(sys.argv[1]) as masks:
        for mask in masks:
            if not rclpy.ok():
                break
            topic = topic_of(mask.stream)
            if topic not in publishers:
                publishers[topic] = node.create_publisher(Image, topic, qos_profile_sensor_data)
            message = Image(**image_fields(mask))
            message.header.stamp.sec, message.header.stamp.nanosec = stamp_of(mask)
            message.header.frame_id = mask.stream
            publishers[topic].publish(message)
    node.destroy_node()


main()
