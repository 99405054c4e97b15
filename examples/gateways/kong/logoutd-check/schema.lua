local typedefs = require "kong.db.schema.typedefs"

return {
  name = "logoutd-check",
  fields = {
    { protocols = typedefs.protocols_http },
    { config = {
        type = "record",
        fields = {
          -- Such as http://127.0.0.1:8080/main/check/api
          { check_url = typedefs.url { required = true } },
          { key = { type = "string", required = true, encrypted = true, referenceable = true } },
        },
      },
    },
  },
}
