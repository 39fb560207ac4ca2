"""RabbitMQ stream queues as the log: one stream per partition."""

from ensue.brokers.rabbitmq.broker import RabbitMqBroker

__all__ = ["RabbitMqBroker"]
