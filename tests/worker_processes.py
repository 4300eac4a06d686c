"""What the processes of the worker tests do. Light to import: each is a fresh interpreter."""

from __future__ import annotations

import os
import socket
import time

from facedetd.ipc import Channel, Message


def talk(boot: list[Message], control: socket.socket) -> None:
    """Say what ``boot`` lists, then wait for the word to stop."""
    channel = Channel(control)
    for message in boot:
        channel.send(message)
    control.setblocking(True)
    control.recv(100)
    os._exit(3)


def last_words(boot: Message, control: socket.socket) -> None:
    control.setblocking(True)
    control.recv(1, socket.MSG_PEEK)  # there is a message, and it stays unread
    control.send(b'{"ev":"unusable"}')
    os._exit(4)


def raw(boot: bytes, control: socket.socket) -> None:
    control.send(boot)
    time.sleep(60)


def flood(boot: None, control: socket.socket) -> None:
    control.setblocking(True)
    while True:
        control.send(b'{"ev":"noise"}')


def send_descriptors(boot: None, control: socket.socket) -> None:
    channel = Channel(control)
    for _ in range(50):
        channel.send({"ev": "gift"}, (0, 1))
    channel.send({"ev": "ready"})
    time.sleep(60)


def let_go_of_everything(boot: None, control: socket.socket) -> None:
    """Close all descriptors, the process's sentinel too, and live on."""
    os.closerange(3, 1000)
    time.sleep(60)
