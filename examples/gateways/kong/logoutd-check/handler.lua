-- Kong's open-source edition: asks logoutd about each request. Nothing is kept between two of them.
-- To be put on Kong's lua_package_path as kong/plugins/logoutd-check/, and named in `plugins`.

local http = require "resty.http"

local IDENTITY = { "X-Subject", "X-Session-Id", "X-Client-Id", "X-Scope" }

-- Before plugins that transform requests, after those that limit their rate.
local LogoutdCheck = { VERSION = "1.0.0", PRIORITY = 900 }

function LogoutdCheck:access(conf)
  for _, name in ipairs(IDENTITY) do
    kong.service.request.clear_header(name)
    -- Applications read X_Subject as the same header.
    kong.service.request.clear_header((name:gsub("-", "_")))
  end

  local client = http.new()
  client:set_timeouts(1000, 1000, 6000)
  local answer, err = client:request_uri(conf.check_url, {
    method = "GET",
    headers = {
      ["Authorization"] = kong.request.get_header("Authorization"),
      ["Logoutd-Key"] = conf.key,
    },
    keepalive_timeout = 60000,
    keepalive_pool = 32,
  })

  if not answer then
    kong.log.err("logoutd gives no answer: ", err)
    return kong.response.exit(503)
  end
  if answer.status ~= 200 then
    if answer.headers["Logoutd-Check"] == "unavailable" or (answer.status ~= 401 and answer.status ~= 403) then
      return kong.response.exit(503)
    end
    return kong.response.exit(answer.status, nil, { ["WWW-Authenticate"] = answer.headers["WWW-Authenticate"] })
  end

  for _, name in ipairs(IDENTITY) do
    local value = answer.headers[name]
    if value and value ~= "" then
      kong.service.request.set_header(name, value)
    end
  end
end

return LogoutdCheck
