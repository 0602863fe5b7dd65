module floodgate.test/tls

go 1.19
