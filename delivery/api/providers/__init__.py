"""What providers tell over HTTP: status callbacks, and the requests that Amazon SNS asks for."""
